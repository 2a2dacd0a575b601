"""Recurrent layers of torch, as the library's definitions have them."""

from __future__ import annotations

from collections.abc import Sequence

from modnorm.adopting.trace import Node
from modnorm.adopting.uses import numbers
from modnorm.graph.renames import Recipe
from modnorm.importing.lower import Lowering, says
from modnorm.importing.problems import Unsaid
from modnorm.importing.views import whole
from modnorm.importing.weights import part, recipe


@says("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(low: Lowering, node: Node) -> None:
    """Layers one behind the other; states begin at zero."""
    x, states, params, biases, layers, dropout, _, both_ways = node.args[:8]
    if any(low.plain(ref) != 0 for ref in states_of(states)):
        raise Unsaid(f"{node.name} that does not begin at zero")
    if both_ways:
        raise Unsaid(f"{node.name} in both directions")
    if dropout:
        raise Unsaid(f"{node.name} with dropout between its layers")
    weights = [recipe(low.trace, n) for n in numbers(params)]
    if not biases or len(weights) != 4 * layers:
        raise Unsaid(f"{node.name} without biases, or with a projection")
    kind = node.name.split("_")[0]
    size = low.trace.values[numbers(params)[1]].shape[1]
    out, back = low.along_last(x.number)
    own = low.graph.shapes[out]
    if len(own) != 3:
        raise Unsaid(f"{node.name} over {len(own)} axes")
    words = {"lstm": f"LSTM({size})", "gru": f"GRU({size})", "rnn": f"RNN({size}, carry = 3/4)"}
    if node.name == "rnn_relu":
        words["rnn"] = f"RNN({size}, carry = 3/4, f = ReLU)"
    for layer in range(layers):
        made = ORDERS[kind](weights[4 * layer : 4 * layer + 4], size)
        out = low.add(words[kind], (out,), (*own[:2], size), made)
    low.views[node.outputs[0]] = back(out, size)
    if layers == 1:
        last = low.add("Last", (out,), (own[0], size))
        low.views[node.outputs[1]] = whole(low.graph, last, (1, own[0], size))


def states_of(given: object) -> list[object]:
    return list(given) if isinstance(given, (list, tuple)) else [given]


def gates(x: Recipe, size: int, count: int) -> list[Recipe]:
    """A recipe for the rows of each gate."""
    return [part(x, 0, size * i, size * (i + 1)) for i in range(count)]


def lstm(weights: Sequence[Recipe], size: int) -> tuple[Recipe, ...]:
    """In the order in which the library's LSTM uses them; of two biases the sum."""
    entry, state, *biases = (gates(w, size, 4) for w in weights)
    first = [w for i in range(4) for w in (entry[i], ("add", biases[0][i], biases[1][i]))]
    i, f, g, o = state
    return (*first, o, f, i, g)


def gru(weights: Sequence[Recipe], size: int) -> tuple[Recipe, ...]:
    """Of two biases the sum, but for the new state's, of which a gate stands between the two."""
    entry, state, inside, behind = (gates(w, size, 3) for w in weights)
    added: list[Recipe] = [("add", inside[i], behind[i]) for i in range(2)]
    first = [w for i in range(3) for w in (entry[i], [*added, inside[2]][i])]
    r, z, n = state
    return (*first, r, n, behind[2], z)


def rnn(weights: Sequence[Recipe], size: int) -> tuple[Recipe, ...]:
    del size
    entry, state, *biases = weights
    return entry, ("add", *biases), state


ORDERS = {"lstm": lstm, "gru": gru, "rnn": rnn}
