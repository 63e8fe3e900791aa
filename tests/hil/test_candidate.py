"""A controller that fails is reported as its own failure, and the bench goes on."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ridethrough.controllers.contract import Commands, Pool, Telemetry
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil import candidate as candidate_module
from ridethrough.hil.assembly import make_plant, make_pool
from ridethrough.hil.bench import run
from ridethrough.hil.candidate import BUNDLED, Candidate, complaint, load_controller, told
from ridethrough.hil.files import scenario_from_dict
from ridethrough.hil.record import read_record
from ridethrough.hil.world import World, build_world


class Hostile:
    """Fails in `decide` as its subclass says."""

    period_s = 60.0

    def enroll(self, pool: Pool) -> None:
        self.n = len(pool.names)

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        answer = self.answer()
        assert isinstance(answer, Commands)
        return answer

    def answer(self) -> object:
        return Commands.none(self.n)


class Raises(Hostile):
    def answer(self) -> object:
        raise ZeroDivisionError("no more homes")


class Exits(Hostile):
    def answer(self) -> object:
        raise SystemExit(7)


class Hangs(Hostile):
    def answer(self) -> object:
        while True:
            time.sleep(0.01)


class Stubborn(Hostile):
    def answer(self) -> object:
        while True:
            try:
                time.sleep(0.01)
            except Exception:  # what a careless candidate does around its whole loop
                continue


class NoValidity(Hostile):
    def answer(self) -> object:
        return replace(Commands.none(self.n), power_w=np.zeros(self.n))


class Infinite(Hostile):
    def answer(self) -> object:
        return replace(Commands.none(self.n), power_w=np.full(self.n, np.inf))


class WrongShape(Hostile):
    def answer(self) -> object:
        return Commands.none(self.n + 1)


class Silent(Hostile):
    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        return None  # type: ignore[return-value]  # on purpose: a candidate that forgets to answer


class FailsToEnroll(Hostile):
    def enroll(self, pool: Pool) -> None:
        raise RuntimeError("cannot read my settings")


@pytest.fixture
def world() -> World:
    home = {"device": "home-13kwh-5kw", "commitment": {"hours": 2, "load_w": 500}, "load": "synthetic-home"}
    return build_world(
        scenario_from_dict({"name": "one", "duration": "10min", "pool": [home], "prices": {"constant": 50}})
    )


@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        (Raises, "decide raised ZeroDivisionError: no more homes"),
        (Exits, "decide called exit(7)"),
        (Hangs, "decide took longer than 0.2 s"),
        (Stubborn, "decide took longer than 0.2 s"),
        (NoValidity, "validity_s is nan in row 0; allowed 1 to 86400 s with a power"),
        (Infinite, "power_w is infinite in row 0"),
        (WrongShape, "power_w is float64 of shape (2,); allowed float64 of shape (1,)"),
        (Silent, "NoneType instead of Commands"),
        (FailsToEnroll, "enroll raised RuntimeError: cannot read my settings"),
    ],
)
def test_a_failing_controller_is_broken_by_its_own_fault(
    hostile: type[Hostile], said: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate_module, "DEADLINE_S", 0.2)
    monkeypatch.setitem(BUNDLED, "hostile", f"{hostile.__module__}:{hostile.__name__}")
    done = run(world, "hostile", tmp_path / "record")
    assert done.verdict.outcome == "broken"
    assert any(said in reason for reason in done.verdict.reasons), done.verdict.reasons
    record = read_record(tmp_path / "record")
    assert record.complete
    assert record.truth["t_ns"].max() == world.duration_ns  # the bench went on to the end


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nonsense", "allowed hold, greedy, reserve, or module:Class"),
        ("no_such_module_anywhere:Thing", "importing no_such_module_anywhere failed"),
        ("json:Thing", "making Thing failed: AttributeError"),
        ("fractions:Fraction", "needs period_s, enroll(pool) and decide"),
    ],
)
def test_a_controller_that_cannot_be_had_is_named_with_its_cure(name: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=r".") as caught:
        load_controller(name)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_controllers_meet_the_contract(name: str) -> None:
    assert load_controller(name).period_s > 0.0


def test_sound_commands_are_not_complained_of() -> None:
    commands = Commands(np.array([100.0, np.nan]), np.array([30.0, np.nan]), np.array([np.nan, 0.5]))
    assert complaint(commands, 2) is None


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("validity_s", 0.5, "validity_s is 0.5 in row 0"),
        ("reserve_soc_frac", 1.5, "reserve_soc_frac is 1.5 in row 0; allowed 0 to 1"),
    ],
)
def test_nonsense_is_named(field: str, value: float, said: str) -> None:
    sound: dict[str, Any] = {
        "power_w": np.zeros(1),
        "validity_s": np.full(1, 30.0),
        "reserve_soc_frac": np.full(1, np.nan),
    }
    found = complaint(Commands(**{**sound, field: np.array([value])}), 1)
    assert found is not None
    assert said in found


def test_an_error_that_cannot_say_what_it_is_is_told_by_its_name() -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise ValueError("not even this")

    assert told(UnspeakableError()) == "UnspeakableError"
    assert told(ValueError("two\n  lines")) == "ValueError: two lines"
    assert len(told(ValueError("x" * 10_000_000))) < 500


def test_what_was_commanded_is_not_the_controller_s_to_change_any_more(world: World) -> None:
    class Changes(Hostile):
        def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
            self.said = Commands(np.zeros(self.n), np.full(self.n, 60.0), np.full(self.n, np.nan))
            return self.said

    controller = Changes()
    candidate = Candidate(controller, make_pool(world, make_plant(world)))
    candidate.enroll()
    commands = candidate.decide(0, None)  # type: ignore[arg-type]  # it does not look
    controller.said.power_w[:] = 5000.0
    assert commands.power_w.tolist() == [0.0]
