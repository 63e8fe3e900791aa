"""The knobs of transport quirks: the section `transport` of a quirk file.

Rules of this file: schema only; `transport` says what comes of it.  Times are bench time.  What is odd about
one exchange in so many has a probability, drawn for each exchange.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .schedule import Strict

Chance = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""Probability in each exchange [1]."""
Long = Annotated[float, Field(ge=0.01, le=86_400, allow_inf_nan=False)]
"""A time between requests, or between connections [s]."""
Short = Annotated[float, Field(ge=0.001, le=600, allow_inf_nan=False)]
"""A time within an exchange [s]."""
Code = Annotated[int, Field(ge=1, le=11)]
Codes = Annotated[tuple[Code, ...], Field(min_length=1, max_length=11)]
Ending = Literal["close", "reset"]


class Idle(Strict):
    """What becomes of a connection on which nothing was asked or answered for `after_s`.

    Attributes
    ----------
    end : str
        ``close`` and ``reset`` can be seen; after ``silent`` the client's next request gets no answer, and no
        other sign of the end.
    """

    after_s: Long
    end: Literal["close", "reset", "silent"] = "close"


class Busy(Strict):
    """A device that is too busy now and then, and does nothing of what it is asked then.

    Attributes
    ----------
    codes : tuple of int
        Exception codes it says so with; each time one of them, drawn evenly.
    chance : float
        That an exchange finds it busy.
    quiet_s : float
        Once busy, it stays so until it was left alone for this long [s].
    """

    codes: Annotated[tuple[Literal[3, 4, 5, 6], ...], Field(min_length=1, max_length=4)] = (6,)
    chance: Chance = 1.0
    quiet_s: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = 0.0


class Refusal(Strict):
    """Requests that are refused by function and number of registers, before anything else is looked at."""

    function: Annotated[int, Field(ge=1, le=127)]
    count_min: Annotated[int, Field(ge=0, le=2000)] = 0
    count_max: Annotated[int, Field(ge=0, le=2000)] = 2000
    code: Code = 1

    @model_validator(mode="after")
    def _some(self) -> Refusal:
        if self.count_max < self.count_min:
            raise ValueError("count_max at least count_min")
        return self


class Slow(Strict):
    """Replies that take their time: a Pareto distribution, cut at `delay_s_max`.

    Attributes
    ----------
    delay_s_min, delay_s_max : float
        Of one reply [s].
    tail : float
        Exponent: the smaller, the heavier.  Half of all replies take up to 2^(1/tail) times `delay_s_min`.
    shared : bool
        All connections wait in one queue.
    """

    delay_s_min: Short
    delay_s_max: Short
    tail: Annotated[float, Field(ge=0.1, le=10, allow_inf_nan=False)] = 1.2
    shared: bool = False

    @model_validator(mode="after")
    def _range(self) -> Slow:
        if self.delay_s_max < self.delay_s_min:
            raise ValueError("delay_s_max at least delay_s_min")
        return self


class Late(Strict):
    """Single replies that come `delay_s` late, on the same connection, after those to later requests.

    Attributes
    ----------
    relabelled : bool
        They come with the transaction id of the last request instead of their own.
    """

    delay_s: Short
    chance: Chance = 1.0
    relabelled: bool = False


class Misaddressed(Strict):
    """Replies that belong to something else.

    Attributes
    ----------
    what : str
        ``transaction-id`` or ``unit-id``: the reply has a wrong one; ``client``: it goes to another client,
        if one is connected.
    shift : int
        The id is wrong by this.
    """

    what: Literal["transaction-id", "unit-id", "client"]
    chance: Chance = 1.0
    shift: Annotated[int, Field(ge=-255, le=255)] = 1

    @model_validator(mode="after")
    def _wrong(self) -> Misaddressed:
        if self.shift == 0:
            raise ValueError("a shift other than 0: 0 is right")
        return self


class Reset(Strict):
    """Connections that are reset when a reply is due; what was asked has been carried out."""

    chance: Chance = 1.0


class Truncated(Strict):
    """Replies of which only the first `bytes_kept` come.

    Attributes
    ----------
    end : str
        What follows: the connection is closed, reset, or goes on as if nothing had been.
    """

    bytes_kept: Annotated[int, Field(ge=1, le=259)]
    chance: Chance = 1.0
    end: Literal["close", "reset", "nothing"] = "nothing"


class Pieces(Strict):
    """Replies that come in pieces, with a pause between two."""

    bytes_each: Annotated[int, Field(ge=1, le=259)]
    pause_s: Short


class TransportKnobs(Strict):
    """What is wrong with connections and exchanges: the section `transport` of a quirk file.

    Attributes
    ----------
    connections_max : int
        A connection beyond this number is turned away.
    turned_away : str
        How a connection ends that is not wanted: it is closed, or reset.
    hold_s : float
        A connection that has ended counts as one for so long [s].
    reconnect_gap_s : float
        A connection is turned away sooner than this after one has ended [s].
    enable_window_s : float
        The port closes when no client connects within this after it was opened; see
        `transport.QuirkyServer.enable` [s].
    silent_codes : tuple of int
        Requests that deserve one of these exceptions get no answer instead.
    drops_pipelined : bool
        A request that comes before the last one was answered is lost.
    together_s : float
        Replies wait for so long, and those that are ready go out in one piece [s].
    """

    connections_max: Annotated[int, Field(ge=1, le=1000)] | None = None
    turned_away: Ending = "reset"
    hold_s: Long | None = None
    reconnect_gap_s: Long | None = None
    enable_window_s: Long | None = None
    idle: Idle | None = None
    busy: Busy | None = None
    refuse: Annotated[tuple[Refusal, ...], Field(max_length=50)] = ()
    silent_codes: Codes | None = None
    slow: Slow | None = None
    late: Late | None = None
    misaddressed: Annotated[tuple[Misaddressed, ...], Field(max_length=10)] = ()
    reset: Reset | None = None
    truncated: Truncated | None = None
    drops_pipelined: bool = False
    together_s: Short | None = None
    pieces: Pieces | None = None

    @model_validator(mode="after")
    def _fit(self) -> TransportKnobs:
        if self.together_s is not None and self.pieces is not None:
            raise ValueError("together_s or pieces, not both")
        return self
