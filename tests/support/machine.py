"""A made-up machine whose memory a test sets."""

from crawler.resources import cgroup
from crawler.resources.memory_pressure import Meter

MIB = 1 << 20


class Machine:
    """A made-up /proc and group: what this process holds, and its group, neighbours included."""

    def __init__(self, root):
        self._rollup = root / "proc" / "self" / "smaps_rollup"
        self._rollup.parent.mkdir(parents=True)
        (root / "proc" / "self" / "cgroup").write_text("0::/\n")
        self._statm = root / "proc" / "self" / "statm"
        self._stat = root / "group" / "memory.stat"
        self._stat.parent.mkdir()
        (root / "group" / "memory.max").write_text(str(300 * MIB))
        self.set(100, 100)
        self.meter = Meter(256 * MIB, proc=root / "proc", root=root / "group")

    def set(self, own_mib, group_mib):
        files = {
            self._stat: f"anon {group_mib * MIB}\n",
            self._rollup: f"Pss: {own_mib << 10} kB\n",
            self._statm: f"9 {own_mib * MIB // cgroup.PAGE_BYTES} 9 9 0 9 0\n",
        }
        for file, text in files.items():
            new = file.with_suffix(".new")
            new.write_text(text)
            new.replace(file)
