"""The report of a study: one HTML page that loads nothing from elsewhere.

``page.py`` builds it with ``page.html``. Each section of the page has a module: ``summary``, ``figures`` (drawn by
``figures.js``), ``trial_table`` (sorted and filtered by ``trial_table.js``), ``compute`` and ``provenance``.
"""
