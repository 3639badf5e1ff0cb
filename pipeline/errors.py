"""Every deliberate error, and what a job answers to it.

PipelineError                exit 1 unless a child says otherwise
├── BadRequest               exit 2   a setting, a catalogue or a path asks for what cannot be
│   ├── WrongBase            exit 2   a bundle meant for another base, or a schema that differs
│   ├── OtherFormat          exit 2   a document that an older or a newer version wrote
│   └── NotPermitted         exit 2   a file or folder that this user may not read or write
├── BadLog                   exit 1   the log does not keep the contract
├── Busy                     exit 1   another process holds the folder
├── Overtaken                exit 1   another writer moved a registry's pointer in the meantime
├── Corrupt                  exit 1   a published file is not what its manifest says
├── Diverged                 exit 1   the loss became infinite or no number
├── DoesNotFit               exit 3   the job needs more than the machine has
└── UnderTrained             exit 1   a base too weak to be a fair starting point

Each error says what was seen, what was expected, where, and what to do next. They carry one
string, so that they survive pickling between workers.
"""


class PipelineError(Exception):
    """Something in the world is not as the job needs it; the message says what to do."""

    exit_code = 1


class BadRequest(PipelineError):
    """The request cannot be met as it is written."""

    exit_code = 2


class WrongBase(BadRequest):
    """A bundle was offered to a base it was not tuned on."""


class OtherFormat(BadRequest):
    """A document of a format that this version neither reads nor migrates."""


class NotPermitted(BadRequest):
    """A file or folder belongs to a user who keeps it from this one; its bytes are not in doubt."""


class BadLog(PipelineError):
    """The log breaks its contract in a way that training must not hide."""


class Busy(PipelineError):
    """Another process works in the folder."""


class Overtaken(PipelineError):
    """Another writer moved a pointer after this one had read it."""


class Corrupt(PipelineError):
    """Published bytes differ from their manifest."""


class Diverged(PipelineError):
    """The loss became infinite or no number; the same settings would come to it again."""


class DoesNotFit(PipelineError):
    """The job needs more memory, disk or workers than there are."""

    exit_code = 3


class UnderTrained(PipelineError):
    """The base has not learned what a fair base must know."""
