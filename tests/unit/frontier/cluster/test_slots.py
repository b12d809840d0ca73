"""A member's slots over long histories of what the database says and the engine does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crawler.frontier.cluster.slots import Phase, Slots
from crawler.frontier.cluster.truth import Tick

SLOTS = st.integers(0, 5)
SETS = st.frozensets(SLOTS)
HELD = st.dictionaries(SLOTS, st.integers(1, 3))


def tick(held: dict[int, int], surplus: frozenset[int] = frozenset(), heired: frozenset[int] = frozenset()) -> Tick:
    return Tick(held, surplus & held.keys(), dict.fromkeys(heired & held.keys(), 7), {}, {}, [], {})


STEP = st.one_of(
    st.tuples(st.just("see"), HELD, SETS, SETS),
    st.tuples(st.just("loaded"), SLOTS, st.integers(1, 3)),
    st.tuples(st.sampled_from(["leave", "stay", "lose", "forget", "dropped"]), SETS),
)


@given(SETS, st.lists(STEP, max_size=60))
def test_a_slot_is_in_one_phase_and_what_was_here_is_dropped(held, steps) -> None:
    """The model: a phase for each slot, by the diagram alone."""
    slots = Slots(held)
    phases: dict[int, str] = dict.fromkeys(held, "held")
    wanted: dict[int, int] = {}
    dropping: set[int] = set()
    for name, *values in steps:
        if name == "see":
            said = tick(*values)
            slots.see(said)
            for slot, epoch in said.held.items():
                if phases.get(slot) == "loading" or (slot not in phases and slot not in said.surplus):
                    phases[slot], wanted[slot] = "loading", epoch
        elif name == "loaded":
            slot, epoch = values
            is_right = phases.get(slot) == "loading" and wanted[slot] == epoch
            assert slots.loaded(slot, epoch) == is_right
            if is_right:
                phases[slot] = "held"
            else:
                dropping.add(slot)
        elif name == "leave":
            leaving = {slot for slot in values[0] if phases.get(slot) == "held"}
            assert slots.leave(values[0]) == leaving
            phases |= dict.fromkeys(leaving, "leaving")
        elif name == "stay":
            staying = {slot for slot, phase in phases.items() if phase == "leaving" and slot not in values[0]}
            assert slots.stay(values[0]) == staying
            phases |= dict.fromkeys(staying, "held")
        elif name == "lose":
            here = {slot for slot in values[0] if phases.get(slot) in ("held", "leaving")}
            assert slots.lose(values[0]) == here
            dropping |= here
            phases = {slot: phase for slot, phase in phases.items() if slot not in values[0]}
        elif name == "forget":
            slots.forget(values[0])
            phases = {slot: phase for slot, phase in phases.items() if slot not in values[0]}
        else:
            slots.dropping.difference_update(values[0])
            dropping -= values[0]
        assert {slot: phase.value for phase in Phase for slot in slots.at(phase)} == phases
        assert slots.wanted == {slot: epoch for slot, epoch in wanted.items() if phases.get(slot) == "loading"}
        assert slots.here() == {slot for slot, phase in phases.items() if phase != "loading"}
        assert all(slots.is_here(slot) == (slot in slots.here()) for slot in range(6))
        assert slots.all == phases.keys() and slots.dropping == dropping and slots.heired <= slots.wanted.keys()


def test_what_another_had_not_given_up_is_known_until_it_is_loaded_or_lost() -> None:
    slots = Slots(())
    slots.see(tick({1: 1, 2: 1, 3: 1}, heired=frozenset((1, 2))))
    slots.see(tick({1: 1, 2: 1, 3: 1}))
    assert slots.heired == {1, 2}
    assert slots.loaded(1, 1)
    slots.lose({2})
    slots.see(tick({1: 1, 2: 2, 3: 1}))
    assert slots.heired == set()
