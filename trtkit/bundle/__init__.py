"""Bundles: one model with everything that a board needs to run it, verified when it is opened."""

from trtkit.bundle.compression import CompressionRow
from trtkit.bundle.manifest import FORMAT_VERSION, Artifact, ArtifactKind, BundleManifest, Postprocess
from trtkit.bundle.store import Bundle, open_bundle, write_bundle

__all__ = ["FORMAT_VERSION", "Artifact", "ArtifactKind", "Bundle", "BundleManifest", "CompressionRow", "Postprocess",
           "open_bundle", "write_bundle"]
