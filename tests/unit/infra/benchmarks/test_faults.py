"""What the fault report says of an attempt: a wrong result is wrong, and what is gone is lost."""

from dataclasses import dataclass, replace

import pytest

from infra.benchmarks import faults
from infra.benchmarks.faults import ClassResult, line_of, notes_of, play, targets_of, turns_of
from infra.benchmarks.faults.outcome import Answer, Ended, Fault, judge
from infra.benchmarks.faults.registry import CannotInject, Damaging, FaultClass, Vacuous
from infra.benchmarks.faults.workspace import RUN_DIRS, BenchSetup
from infra.benchmarks.specs import BenchFaultsSpec

FAULT = Fault(what="byte 3 of R1/base/manifest.json flipped", names=("R1/base/manifest.json",))
THINGS = {"pooled": "aa", "region=a": "bb"}
ROWS = {"tune": 100, "valid": 20}


def ended(things=THINGS, rows=ROWS, repeated=0, seconds=3.0):
    told = Ended(things=things, rows=rows, repeated=repeated)
    return Answer(ending="ended", ended=told, seconds=seconds)


def refused(message):
    return Answer(ending="refused", message=message)


HONEST = [ended(seconds=2.0)]


def judged(answer, *, honest=HONEST, has_published=False, lost=()):
    return judge(answer, FAULT, honest=honest, has_published=has_published, lost=lost)


@pytest.mark.parametrize(
    ("answer", "verdict", "note"),
    [
        (ended(), "survived", ""),
        (ended({**THINGS, "pooled": "cc"}), "wrong", "another result: 1 of 2 .*pooled"),
        (ended({"pooled": "aa"}), "wrong", "another result: 1 of 2 .*region=a"),
        (ended({**THINGS, "region=z": "dd"}), "wrong", "another result: 1 of 2 .*region=z"),
        (refused("/x/R1/base/manifest.json was changed"), "refused by name", ""),
        (refused("something is wrong"), "wrong", "without naming R1/base/manifest.json"),
        (Answer(ending="crashed", message="KeyError: 'a'"), "wrong", "crashed: KeyError"),
        (Answer(ending="died", signal=7, message="by SIGBUS"), "wrong", "died: by SIGBUS"),
        (Answer(ending="hung", message="still running"), "wrong", "hung"),
    ],
)  # fmt: skip
def test_only_the_same_result_survives_and_only_a_name_excuses(answer, verdict, note):
    found = judged(answer)
    assert found.verdict == verdict
    assert (note == "") == (found.note == "")
    assert all(part in found.note for part in note.split(".*"))


def test_a_refusal_after_publishing_is_wrong():
    told = refused("R1/base/manifest.json was changed")
    assert judged(told, has_published=True).verdict == "wrong"
    assert judged(told, has_published=False).verdict == "refused by name"


def test_a_fault_that_must_be_survived_has_no_name_that_excuses():
    must = Fault(what="an entry flipped", names=())
    found = judge(refused("any name at all"), must, honest=HONEST, has_published=False)
    assert found.verdict == "wrong"


def test_without_an_honest_result_no_result_is_right():
    dead = Answer(ending="refused", message="no such log")
    assert judged(ended(), honest=[dead]).verdict == "wrong"


def test_rows_are_lost_or_repeated_by_what_an_honest_run_meets():
    found = judged(ended(rows={"tune": 90, "valid": 25}, repeated=2))
    assert (found.rows_lost, found.rows_repeated) == (10, 7)
    assert (judged(ended(rows=None)).rows_lost, judged(refused("x")).rows_repeated) == (None, None)


def test_recovery_is_timed_over_an_undamaged_attempt_where_the_fault_was_survived():
    found = judged(ended(seconds=3.0))
    assert (found.seconds, found.over_undamaged) == (3.0, 1.5)
    assert judged(ended({}, seconds=3.0)).seconds is None


def result(*answers, lost=()):
    found = [judged(answer, lost=lost) for answer in answers]
    return ClassResult(fault="base file flipped", where="manifest", judged=found)


def test_a_line_counts_each_verdict_and_what_is_lost():
    line = line_of(result(ended(), ended({}), refused("R1/base/manifest.json"), lost=("N1/x",)))
    wanted = {"injected": 3, "survived": 1, "refused_by_name": 1, "wrong": 1, "lost": 3}
    assert line.model_dump(include=set(wanted)) == wanted
    assert (line.seconds_to_recover, line.times_undamaged) == (3.0, 1.5)


def test_rows_that_nobody_counted_are_not_claimed():
    assert line_of(result(refused("R1/base/manifest.json"))).rows_lost is None
    assert line_of(result(ended(), refused("R1/base/manifest.json"))).rows_lost == 0


@dataclass(frozen=True)
class Bad:
    kind: str
    name: str
    outcome: str
    message: str = "told"


INPUTS = [
    Bad("catalogue", "deep", "refused by name"),
    Bad("catalogue", "bom", "crashed"),
    Bad("path", "nul", "wrong"),
]


@pytest.mark.parametrize(
    ("results", "inputs", "missed"),
    [
        ([result(ended())], INPUTS[:1], set()),
        ([result(ended({}))], INPUTS[:1], {"wrong"}),
        ([result(ended(), lost=("N1",))], INPUTS[:1], {"lost"}),
        ([result(ended())], INPUTS[1:], {"wrong"}),
        ([result()], INPUTS[:1], {"faults injected"}),
        ([result(ended())], [], {"bad inputs tried"}),
    ],
)
def test_targets_are_missed_by_one_wrong_one_lost_or_too_few(results, inputs, missed):
    rows = [line_of(one) for one in results] + faults.input_lines(inputs)
    spec = BenchFaultsSpec(fewest_faults=1, fewest_inputs=1)
    assert {t.name for t in targets_of(rows, spec) if not t.is_met} == missed


def test_notes_name_what_is_wrong_lost_or_could_not_be_injected():
    skipped = ClassResult(fault="index flipped", where="bundles", skipped="there is no index")
    told = notes_of([result(ended({}), lost=("N1/record.json",)), skipped], INPUTS)
    assert len(told) == 4
    assert "byte 3 of R1/base/manifest.json flipped" in told[0]
    assert "N1/record.json" in told[0]
    assert "bom: crashed: told" in told[1]
    assert told[3].endswith("there is no index")


def test_every_play_has_its_turns_and_no_class_too_many():
    classes = [
        FaultClass(name=n, where="x", plays=[len] * plays) for n, plays in (("a", 3), ("b", 1))
    ]
    turns = turns_of(classes, per_play=2, per_class=4)
    assert [sum(index == n for index, _ in turns) for n in (0, 1)] == [4, 2]
    assert len(set(turns)) == len(turns)


# ---------------------------------------------------------------- a play, its attempts made up


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeGround(BenchSetup):
    """A ground whose attempts come to what a function says of the place."""

    answer: object

    def ask(self, workspace, request):
        return self.answer(workspace, request)


def fake_ground(tmp_path, answer):
    ready = tmp_path / "ready"
    (ready / "N1/bundles/pooled").mkdir(parents=True)
    (ready / "N1/bundles/pooled/manifest.json").write_text("{}")
    (ready / "N1/record.json").write_text("{}")
    undamaged = dict.fromkeys(RUN_DIRS, HONEST[0])
    return FakeGround(
        server=None, attempt=None, ready=ready, scratch=tmp_path, undamaged=undamaged, answer=answer
    )


def spoil(workspace, _random):
    (workspace / "spoiled").write_text("")
    return FAULT


def played(tmp_path, answer, **changes):
    known = FaultClass(name="spoiled", where="x", plays=[Damaging(spoil, "night", **changes)])
    return play(fake_ground(tmp_path, answer), known, 0, "seed")


def test_the_attempt_meets_the_fault_and_a_right_result_survives(tmp_path):
    seen = []

    def answer(workspace, _request):
        seen.append((workspace / "spoiled").exists())
        return ended()

    found = played(tmp_path, answer)
    assert (found.verdict, found.lost, seen) == ("survived", (), [True])
    assert [path.name for path in tmp_path.iterdir()] == ["ready"]


def test_a_wrong_result_is_counted_as_wrong(tmp_path):
    assert played(tmp_path, lambda *_: ended({})).verdict == "wrong"


@pytest.mark.parametrize("how", ["unlink", "rewrite"])
def test_what_an_attempt_damages_of_what_was_published_is_lost(tmp_path, how):
    def answer(workspace, _request):
        path = workspace / "N1/bundles/pooled/manifest.json"
        path.unlink() if how == "unlink" else path.write_text("{ }")
        return ended()

    found = played(tmp_path, answer)
    assert found.lost == ("N1/bundles/pooled/manifest.json",)
    assert line_of(ClassResult(fault="f", where="w", judged=[found])).lost == 1


def test_bundles_beside_a_refusal_are_wrong(tmp_path):
    def answer(workspace, _request):
        folder = workspace / RUN_DIRS["night"] / "bundles/pooled"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        return refused("R1/base/manifest.json was changed")

    assert "refused after publishing" in played(tmp_path, answer).note


def test_a_changed_input_is_judged_by_an_honest_run_over_it(tmp_path):
    """What came out before the change is stale, and therefore wrong."""
    other = {"pooled": "zz"}

    def answer(stale):
        def of(_place, request):
            is_honest = request.settings["run_dir"] == "honest"
            return ended(other if is_honest or not stale else THINGS)

        return of

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert played(tmp_path / "a", answer(stale=False), accepts="fresh").verdict == "survived"
    assert played(tmp_path / "b", answer(stale=True), accepts="fresh").verdict == "wrong"


def test_a_change_that_changes_nothing_is_no_fault(tmp_path):
    found = played(tmp_path, lambda *_: ended(), accepts="fresh")
    assert found.startswith("nothing to hit")


@pytest.mark.parametrize("is_said", [True, False])
def test_an_input_may_be_left_out_only_aloud(tmp_path, is_said):
    def answer(workspace, _request):
        said = "R1/base/manifest.json is not read" if is_said else "all is well"
        (workspace / "said.txt").write_text(said)
        return ended({"pooled": "without"}, rows={"tune": 60, "valid": 20})

    found = played(tmp_path, answer, accepts="left out")
    assert found.verdict == ("refused by name" if is_said else "wrong")
    assert found.rows_lost == 40


def test_a_class_that_cannot_be_injected_says_why(tmp_path):
    def cannot(_stage):
        raise CannotInject("only root can")

    def never(_stage):
        raise Vacuous("no label to swap")

    for play_, told in ((cannot, "only root can"), (never, "no label to swap")):
        known = FaultClass(name="a", where="b", plays=[play_])
        workspace = tmp_path / told.replace(" ", "-")
        workspace.mkdir()
        assert told in play(fake_ground(workspace, None), known, 0, "seed")


def test_a_damage_that_comes_while_the_attempt_runs_is_told_by_the_attempt(tmp_path):
    def answer(workspace, request):
        fault = request.damage(workspace, None)
        assert request.moment == ("listed", 1)
        return replace(ended({}), fault=fault)

    assert played(tmp_path, answer, moment=("listed", 1)).verdict == "wrong"


def test_a_run_of_some_classes_alone_has_their_targets_alone():
    known = FaultClass(name="a worker killed", where="platform's night on Ray")
    assert known.name in {one.name for one in faults.classes_of(["night on Ray"])}
    assert faults.classes_of(()) == faults.CLASSES
    assert faults.classes_of(["no such class"]) == []
    rows = [line_of(ClassResult(fault=known.name, where=known.where))]
    assert [t.name for t in targets_of(rows, BenchFaultsSpec(only=("Ray",)))] == ["wrong", "lost"]
