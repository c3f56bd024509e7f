"""The doctor finds the network file system and the git working tree that a file is in."""

from pathlib import Path

import pytest

from exporter.doctor.filesystem import git_tree_of, network_filesystem_of

MOUNTS = r"""
21 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 21 0:41 / /srv rw,relatime shared:9 - nfs4 filer:/export/srv rw,vers=4.2
31 30 254:2 / /srv/fast rw,relatime - xfs /dev/vdb rw
32 21 0:43 / /mnt/two\040words rw - cifs //nas/a\040share rw
33 21 0:44 / /data rw - ext4 /dev/vdc rw
34 33 0:45 / /data rw - fuse.sshfs me@far:/data rw
35 21 0:46 / /again rw - nfs filer:/old rw
36 35 254:3 / /again rw - ext4 /dev/vdd rw
a line that is not valid
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/home/me/order_groups.db", None),
        ("/srv/order_groups.db", "nfs4 (filer:/export/srv)"),
        ("/srv", "nfs4 (filer:/export/srv)"),
        ("/srv2/order_groups.db", None),
        ("/srv/fast/order_groups.db", None),
        ("/srv/fast/../slow/order_groups.db", "nfs4 (filer:/export/srv)"),
        ("/mnt/two words/order_groups.db", "cifs (//nas/a share)"),
        ("/data/order_groups.db", "fuse.sshfs (me@far:/data)"),
        ("/again/order_groups.db", None),
    ],
)
def test_a_network_file_system_is_recognized_by_its_mount(path: str, found: str | None) -> None:
    assert network_filesystem_of(Path(path), MOUNTS) == found


def test_a_link_to_a_network_file_system_is_followed(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near.db").symlink_to(tmp_path / "far" / "real.db")
    mounts = f"1 0 0:1 / {tmp_path.resolve()}/far rw - nfs filer:/x rw"
    assert network_filesystem_of(tmp_path / "near.db", mounts) == "nfs (filer:/x)"


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="only Linux lists its mounts")
def test_the_mounts_of_this_machine_can_be_read() -> None:
    assert network_filesystem_of(Path("/proc/self/status")) is None


@pytest.mark.parametrize("kind", ["clone", "worktree"])
def test_a_git_working_tree_is_found_from_any_depth(tmp_path: Path, kind: str) -> None:
    deep = tmp_path / "tree" / "a" / "b"
    deep.mkdir(parents=True)
    marker = tmp_path / "tree" / ".git"
    marker.mkdir() if kind == "clone" else marker.write_text("gitdir: elsewhere\n")
    (tmp_path / "outside.pem").touch()
    (deep / "link.pem").symlink_to(tmp_path / "outside.pem")
    assert git_tree_of(deep / "kalshi.pem") == tmp_path.resolve() / "tree"
    assert git_tree_of(deep / "link.pem") is None
    assert git_tree_of(tmp_path / "outside.pem") is None
