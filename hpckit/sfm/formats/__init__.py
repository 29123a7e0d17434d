"""Reconstructions in files: `read` finds out which format it is, `write` goes by the name.

    bal                         text of "Bundle Adjustment in the Large": `to_bal` of `convert`
    bundler                     bundle.out
    colmap                      folders of cameras, images and points3D, of text or binary files,
    colmap_text, colmap_binary  which `colmap_tables` checks and puts together
    libmv                       problems of libmv, read only
    ply                         point clouds, written only; `hpckit.io.polydata` writes VTKHDF

Files are read and written by rank 0. What is decided about odd files is in docs/sfm-formats.md.
"""

from hpckit.sfm.formats.files import FORMATS, read, write

__all__ = ["FORMATS", "read", "write"]
