"""The error tree. Everything a user can cause is raised as a subclass of :class:`FbindError`.

A message says what is wrong, where, what was expected, and how to mend it, in one line; the
command line prints that line and exits with the class's ``exit_code``.

    FbindError                    1
    ├── VerificationError         1   a store that does not verify (list printed)
    ├── ConfigError               2   options that contradict each other or the data
    ├── SourceError               3   something is wrong with the dataset on disk
    │   ├── MissingFileError          a file or folder is not there
    │   ├── BadImageError             an image can't be decoded or has the wrong mode
    │   └── BadLabelError             a label map has the wrong size, mode or values
    ├── ManifestError             4   clusters.json or a store's manifest can't be trusted
    │   └── UnknownVersionError       written by another version of the format
    ├── StoreError                5   a store can't be read or written
    │   ├── StoreExistsError          the output is already there
    │   ├── IncompleteStoreError      the store is still being written or was interrupted
    │   └── CorruptStoreError         a checksum, shape or value is wrong
    ├── ResourceError             6   disk space, permissions, memory, network, devices
    ├── SchedulerError            7   no Dask scheduler or worker answers
    ├── CheckpointError           8   a checkpoint can't be read or does not fit
    ├── MissingExtraError         9   an optional part of fbind is not installed
    └── InterruptedRunError     130   the user stopped it (Ctrl-C); what was done is kept
"""

from __future__ import annotations


class FbindError(Exception):
    """Root of the tree. ``exit_code`` is what the ``fbind`` command exits with."""

    exit_code = 1


class VerificationError(FbindError):
    """A store failed verification; the bad shards have been listed."""


class ConfigError(FbindError):
    """Options that contradict each other, or that the data cannot satisfy."""

    exit_code = 2


class SourceError(FbindError):
    """Something is wrong with the dataset on disk."""

    exit_code = 3


class MissingFileError(SourceError):
    """A file or folder that the dataset needs is not there."""


class BadImageError(SourceError):
    """An image cannot be decoded completely, or is not three channels of eight bits."""


class BadLabelError(SourceError):
    """A label map has another size than its image, another mode than 8-bit indices, or values outside the label set."""


class ManifestError(FbindError):
    """A clusters file or a store's manifest is malformed, edited, or belongs to other data."""

    exit_code = 4


class UnknownVersionError(ManifestError):
    """The file was written by a version of the format that this fbind does not read."""


class StoreError(FbindError):
    """A store cannot be read or written."""

    exit_code = 5


class StoreExistsError(StoreError):
    """The output is already there and is not an interrupted run of the same plan."""


class IncompleteStoreError(StoreError):
    """The store is still being written, or its writing was interrupted."""


class CorruptStoreError(StoreError):
    """A checksum, a shape or a value in the store is wrong."""


class ResourceError(FbindError):
    """The machine lacks something: disk space, a permission, memory, the network, a device."""

    exit_code = 6


class SchedulerError(FbindError):
    """No Dask scheduler, or no worker of it, answers."""

    exit_code = 7


class CheckpointError(FbindError):
    """A checkpoint cannot be read, or does not fit the network or the label set."""

    exit_code = 8


class MissingExtraError(FbindError):
    """A command needs an extra of fbind that is not installed."""

    exit_code = 9


class InterruptedRunError(FbindError):
    """The user stopped a run; what was recorded is kept, and the message says how to go on."""

    exit_code = 130
