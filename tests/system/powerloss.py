"""Power losses on real files: what powerloss.c remembered, and luck.

A file comes back as it was last synced, with any subset of the pages that
changed since, some of them torn between sectors.  A name that was made or
removed since its directory was last synced may be there or not.
"""

import os
import shutil
import subprocess
import uuid

PAGE = 4096
SECTOR = 512


class Power:
    """The disk under one cluster: power.lose() is what the outage does."""

    def __init__(self, app, rng, lags=None):
        """lags: workers of which one's disk is far behind, in each life
        another; -1 is none."""
        self.app = app
        self.rng = rng
        self.lags = range(-1, app.settings["workers"]) \
            if lags is None else lags
        self.losses = 0
        self.roots = [app.state_dir, app.out_dir]
        self.shadow = app._mkdir("shadow", 0o777)
        self.boot = os.path.join(app.dir, "boot_id")
        library = os.path.join(app.dir, "powerloss.so")
        subprocess.run(["cc", "-shared", "-fPIC", "-O", "-o", library,
                        os.path.join(os.path.dirname(__file__),
                                     "powerloss.c")], check=True)
        os.chmod(library, 0o755)
        app.environment.update({
            "LD_PRELOAD": library, "POWER_SHADOW": self.shadow,
            "POWER_ROOTS": ":".join(self.roots), "POWER_BOOT": self.boot,
            "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0"})
        self.new_boot()

    def new_boot(self):
        with open(self.boot, "w") as file:
            file.write(str(uuid.UUID(int=self.rng_bits())) + "\n")
        os.chmod(self.boot, 0o644)
        self.app.environment.update({
            "POWER_LAGS": str(self.rng.choice(self.lags)),
            "POWER_LAG_MS": str(self.rng.choice((100, 250)))})

    def rng_bits(self):
        return self.rng.getrandbits(128)

    def lose(self):
        """Everything dies, and the disk keeps what it has to."""
        self.app.kill_everything()
        for root in self.roots:
            self.lose_directory(root)
        # What is there now is on the disk.
        shutil.rmtree(self.shadow)
        os.mkdir(self.shadow)
        os.chmod(self.shadow, 0o777)
        for root in self.roots:
            self.note(root)
        self.new_boot()
        self.losses += 1

    # names

    def shadow_of(self, kind, path):
        return os.path.join(self.shadow, "%s.%d" % (
            kind, os.stat(path).st_ino))

    def listed(self, directory):
        """Names and inodes as of the directory's last sync."""
        try:
            with open(self.shadow_of("d", directory)) as file:
                pairs = [line.rstrip("\n").split(" ", 1) for line in file]
        except FileNotFoundError:
            return {}
        return {name: int(inode) for inode, name in pairs}

    def lose_directory(self, directory):
        before = self.listed(directory)
        now = {name: os.stat(os.path.join(directory, name)).st_ino
               for name in os.listdir(directory)}
        for name in sorted(set(before) | set(now)):
            path = os.path.join(directory, name)
            removed = os.path.join(self.shadow, "u." + path.replace(
                "/", "%"))
            if name not in before and self.rng.random() < 0.5:
                shutil.rmtree(path) if os.path.isdir(path) \
                    else os.unlink(path)
            elif name in before and before[name] != now.get(name) \
                    and os.path.exists(removed) and self.rng.random() < 0.5:
                shutil.copyfile(removed, path)
                self.app._own(path)
            elif name not in now:
                continue
            elif os.path.isdir(path):
                self.lose_directory(path)
            elif os.path.isfile(path):
                self.lose_file(path)

    # bytes

    def lose_file(self, path):
        if path.endswith("-shm"):	# nobody believes it after a crash
            os.unlink(path)
            return
        with open(path, "rb") as file:
            now = file.read()
        try:
            with open(self.shadow_of("f", path), "rb") as file:
                then = file.read()
        except FileNotFoundError:
            then = b""
        size = self.rng.choice((len(then), len(now)))
        with open(path, "r+b") as file:
            file.truncate(size)
            for at in range(0, size, PAGE):
                end = min(at + PAGE, size)
                new = now[at:end].ljust(end - at, b"\0")
                old = then[at:end].ljust(end - at, b"\0")
                page = self.page(old, new)
                if page != new:
                    file.seek(at)
                    file.write(page)

    def page(self, old, new):
        if old == new:
            return new
        luck = self.rng.random()
        if luck < 0.4:
            return old
        if luck < 0.8:
            return new
        return b"".join((old if self.rng.random() < 0.5 else new)
                        [at:at + SECTOR]
                        for at in range(0, len(new), SECTOR))

    def note(self, directory):
        """What was found after the loss is durable."""
        lines = []
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            lines.append("%d %s\n" % (os.stat(path).st_ino, name))
            if os.path.isdir(path):
                self.note(path)
            elif os.path.isfile(path):
                copy = self.shadow_of("f", path)
                shutil.copyfile(path, copy)
                os.chmod(copy, 0o666)
        with open(self.shadow_of("d", directory), "w") as file:
            file.writelines(lines)
        os.chmod(self.shadow_of("d", directory), 0o666)
