"""Define every deliberate error, and the exit code that a job ends with.

PipelineError                exit 1   unless a class below has another code
├── BadRequest               exit 2   a setting, a catalogue or a path that cannot be used
│   ├── WrongBase            exit 2   a bundle meant for another base, or a schema that differs
│   ├── OtherFormat          exit 2   a document that an older or a newer version wrote
│   └── NotPermitted         exit 2   a file or folder that this user may not read or write
├── BadLog                   exit 1   the log does not keep the contract
├── Busy                     exit 1   another process holds the folder
├── Overtaken                exit 1   another writer moved a registry's pointer in the meantime
├── Unreachable              exit 1   a store or a tracking server does not answer as it should
├── Corrupt                  exit 1   a published file is not what its manifest says
├── Diverged                 exit 1   the loss became infinite or not a number
├── DoesNotFit               exit 3   the job needs more than the machine has
└── UnderTrained             exit 1   a base too weak to be a fair starting point

Each error says what was seen, what was expected, where, and what to do next. They carry one
string, so that they survive pickling between workers.

A job that ends without an error has one of the codes below. `jobs/README.md` explains them.
"""

OK = 0
SOME_HELD = 4
"""Some kernels are held, or a base is not better than its parent. Nothing is wrong."""
SOME_FAILED = 5
"""Some kernels failed. The others are as if nothing had happened."""
NOTHING_TO_DO = 6
INTERRUPTED = 130
"""128 and the number of SIGINT, as shells count."""


class PipelineError(Exception):
    """The log, a file or the machine is not as the job needs it; the message says what to do."""

    exit_code = 1


class BadRequest(PipelineError):
    """The request cannot be met as it is written."""

    exit_code = 2


class WrongBase(BadRequest):
    """A bundle, a log or a schema belongs to another base."""


class OtherFormat(BadRequest):
    """A document of a format that this version neither reads nor migrates."""


class NotPermitted(BadRequest):
    """This user may not read or write a file or folder. Its content may be sound."""


class BadLog(PipelineError):
    """The log breaks its contract in a way that training must not hide."""


class Busy(PipelineError):
    """Another process works in the folder."""


class Overtaken(PipelineError):
    """Another writer moved a pointer after this one had read it."""


class Unreachable(PipelineError):
    """An object store or a tracking server does not answer as it should, however often asked."""


class Corrupt(PipelineError):
    """Published bytes differ from their manifest."""


class Diverged(PipelineError):
    """The loss became infinite or not a number; the same settings would lead there again."""


class DoesNotFit(PipelineError):
    """The job needs more memory, disk or workers than there are."""

    exit_code = 3


class UnderTrained(PipelineError):
    """The base is too weak to be a fair starting point."""
