"""Files of studies on object storage, for tests."""

from vae_tune.config import storage


def write(folder, **contents):
    for name, content in contents.items():
        storage.write_bytes(folder / name.replace("_", "."), content)


def record(folder, epochs=1):
    lines = b"".join(b'{"epoch": %d}\n' % epoch for epoch in range(epochs))
    write(folder, optuna_journal=lines, epochs_csv=lines, study_json=b"{}")


def names(server, place):
    prefix = "/".join(place.parts[2:]) + "/"
    return {name.removeprefix(prefix) for name in server.objects() if name.startswith(prefix)}
