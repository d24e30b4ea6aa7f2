from __future__ import annotations

import io

from tests.vm.cpio import CpioWriter


def test_the_archive_has_the_layout_of_the_kernels_documentation() -> None:
    stream = io.BytesIO()
    archive = CpioWriter(stream)
    archive.file("a/bc", b"hello", 0o755)
    data = stream.getvalue()

    assert data[:6] == b"070701"
    fields = [int(data[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
    assert fields == [1, 0o100755, 0, 0, 1, 0, 5, 0, 0, 0, 0, 5, 0]
    assert data[110:115] == b"a/bc\0"
    assert data[116:] == b"hello\0\0\0"  # name and content each end at a multiple of four
