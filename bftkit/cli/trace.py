"""`bftkit trace show`: what is in a trace, as a plan and a story, or frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from bftkit.cli.app import ExitCode, output
from bftkit.cli.replay import recorded
from bftkit.cli.simulate import explained, usage
from bftkit.sim.plan import KEY_VALUE, plan_data
from bftkit.sim.story import LINES_MAX, Story, story_of
from bftkit.sim.watching import Happened, Said

app = App(name="trace", help="Look at a failing run.")


@app.command
def show(
    trace: Annotated[Path, Parameter(help="A trace, as a campaign or bftkit replay --save writes it, or a plan.")],
    /,
    *,
    messages: Annotated[bool, Parameter(help="Show every frame that a member sends, decoded.", negative="")] = False,
    member: Annotated[str | None, Parameter(help="Only what this member or client says, hears or does.")] = None,
    begin: Annotated[float | None, Parameter(name="--from", help="Only from this millisecond on.")] = None,
    end: Annotated[float | None, Parameter(name="--to", help="Only up to this millisecond.")] = None,
    slot: Annotated[int | None, Parameter(help="Only what concerns this slot; of the story, what it is about.")] = None,
    full: Annotated[bool, Parameter(help="A story of any length.", negative="")] = False,
) -> ExitCode:
    """Run a trace's plan again and show it: the plan and the story, or with --messages every frame as a line."""
    out = output()
    with explained():
        known = recorded(trace, None, "", "", KEY_VALUE)
        story = story_of(known.plan, lines=None if full else LINES_MAX, slots=() if slot is None else (slot,))
        if member is not None and member not in (*story.world.members, *story.world.actors):
            usage(f"--member {member}: there are {', '.join((*story.world.members, *story.world.actors))}")
    result = story.result
    same = result.digest == known.digest if known.digest else None
    count = 0
    if messages:
        for line in _lines(story, member, begin, end, slot):
            count += 1
            out.event("line", **line)
            out.plain(f"{line['ms']:>10.3f}  {line['text']}")
    else:
        out.event("plan", plan=plan_data(known.plan))
        out.plain(known.plan.to_json())
        out.plain("")
        for text in story.text.splitlines():
            out.event("story", line=text)
            out.plain(text)
    if same is False:
        text = f"bftkit: not the run that was recorded (digest {known.digest})"
        out.log(f"{text}: the code has changed since, or hangs on more than the seed")
    out.event("result", oracle=result.oracle, violation=result.violation, digest=result.digest, same=same, lines=count)
    return ExitCode.OK


def _lines(
    story: Story, member: str | None, begin: float | None, end: float | None, slot: int | None
) -> Iterator[dict[str, object]]:
    world = story.world
    events: list[tuple[int, int, Said | Happened]] = [
        *((said.at_us, number, said) for number, said in enumerate(world.said)),
        *((one.at_us, number, one) for number, one in enumerate(world.happened)),
    ]
    for at_us, _, event in sorted(events, key=lambda item: item[:2]):
        if (begin is not None and at_us < begin * 1000) or (end is not None and at_us > end * 1000):
            continue
        if isinstance(event, Happened):
            if member not in (None, event.who) or slot not in (None, event.slot):
                continue
            yield {
                "ms": at_us / 1000,
                "who": event.who,
                "kind": event.kind,
                "text": f"{event.who} {event.text}".strip(),
            }
            continue
        read = world.wording.read(event.frame)
        if member is not None and member != event.sender and member not in event.receivers:
            continue
        if slot is not None and slot not in read.slots:
            continue
        missed = [name for name in event.receivers if name not in event.heard]
        text = f"{event.sender} → {', '.join(event.receivers)}: {read.text}"
        if missed:
            text += f" (not heard by {', '.join(missed)})"
        heard = {name: at / 1000 for name, at in sorted(event.heard.items())}
        yield {
            "ms": at_us / 1000,
            "who": event.sender,
            "kind": read.name,
            "to": event.receivers,
            "heard": heard,
            "slots": sorted(read.slots),
            "text": text,
        }
