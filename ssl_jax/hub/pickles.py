"""Reads pickles without running code: only data comes out, whatever a file asks for.

No class is imported and no function called. The few calls in torch checkpoints are implemented here
by name; every other object becomes a `Stub` with its arguments. Limits keep a small file from
filling the memory: see the constants.
"""

import dataclasses
import io
import pickletools
from collections.abc import Callable, Sequence
from typing import Any

MAX_BYTES = 64 * 2**20  # of one pickle, not counting the data of tensors
MAX_STEPS = 8_000_000  # instructions, copied items and plain values
MAX_DEPTH = 100  # of nested lists and objects
MAX_INT_BITS = 127
_KEY_TYPES = (str, bytes, int, float, bool, type(None))


class PickleError(ValueError):
    """A pickle is damaged or asks for more than a checkpoint needs."""


class Stub:
    """Stands for an object of any other class; keeps the arguments that it was made with."""

    def __init__(self, name: str = "", args: Sequence[Any] = ()) -> None:
        self.name = name
        self.args = args


@dataclasses.dataclass(frozen=True)
class Named:
    """The dotted name of an object that a pickle would import."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Mark:
    """The beginning of a list of items on the stack."""


_MARK = _Mark()
Call = Callable[[Sequence[Any]], Any]


class Machine:
    """Executes the instructions of a pickle, none of which can run code.

    calls: name -> function that replaces that call; all other calls give stubs. storage(id):
    returns the data of a tensor.
    """

    def __init__(self, calls: dict[str, Call], storage: Call) -> None:
        self._storage = storage
        self._calls: dict[str, Call] = {
            "collections.OrderedDict": self._dict,
            "collections.defaultdict": lambda args: {},
            "builtins.dict": self._dict,
            "builtins.set": self._set,
            "__builtin__.set": self._set,
            "torch.Size": lambda args: tuple(self._items(args)),
            "_codecs.encode": self._encode,
            "copyreg._reconstructor": lambda args: self._new(args[0], ()),
            "copy_reg._reconstructor": lambda args: self._new(args[0], ()),
            **calls,
        }
        self._steps = 0

    def load(self, file: io.BytesIO) -> Any:
        """Returns the content of the next pickle in a file; raises PickleError."""
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._depths: dict[int, int] = {}
        self._referenced: list[Any] = []  # keeps the ids in _depths from being reused
        try:
            for code, arg, _ in pickletools.genops(file):
                self._spend(1)
                if code.name == "STOP":
                    return self._stack.pop()
                self._step(code.name, arg)
        except PickleError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            raise PickleError(f"its pickle is damaged ({error})") from error
        raise PickleError("its pickle has no end")

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise PickleError(f"its pickle takes more than {MAX_STEPS:,} steps")

    def _step(self, name: str, arg: Any) -> None:
        if name in _IGNORED:
            return
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            self._stack.append(self._value(arg))
        elif name in _EMPTY:
            self._stack.append(self._nested(_EMPTY[name](), ()))
        else:
            method = getattr(self, f"_do_{name.lower()}", None)
            if method is None:
                raise PickleError(f"its pickle has the instruction {name}, which is not supported")
            method(arg)

    def _value(self, arg: Any) -> Any:
        if isinstance(arg, int) and arg.bit_length() > MAX_INT_BITS:
            raise PickleError(f"its pickle has an integer of more than {MAX_INT_BITS} bits")
        return arg

    def _nested(self, value: Any, children: Sequence[Any]) -> Any:
        """Records the depth of a new or filled value; raises PickleError if it is too deep."""
        depth = 1 + max((self._depths.get(id(x), 0) for x in children), default=0)
        if depth > MAX_DEPTH:
            raise PickleError(f"its pickle nests deeper than {MAX_DEPTH}")
        if id(value) not in self._depths:
            self._referenced.append(value)
        self._depths[id(value)] = max(depth, self._depths.get(id(value), 0))
        return value

    def _above_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise PickleError("its pickle is damaged (a list without a beginning)")
        found = self._stack[at + 1 :]
        del self._stack[at:]
        return found

    def _items(self, args: Sequence[Any]) -> Sequence[Any]:
        """Returns the items of the first argument, a list or tuple, and counts them as steps."""
        found = args[0] if args else ()
        if not isinstance(found, list | tuple):
            raise PickleError(f"its pickle makes a list of {type(found).__name__}")
        self._spend(len(found))
        return found

    def _dict(self, args: Sequence[Any]) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for pair in self._items(args):
            key, value = pair
            found[_key(key)] = value
        return self._nested(found, tuple(found.values()))

    def _set(self, args: Sequence[Any]) -> set[Any]:
        return {_key(item) for item in self._items(args)}

    def _encode(self, args: Sequence[Any]) -> bytes:
        self._spend(len(args[0]))
        return args[0].encode("latin-1")

    def _new(self, of: Any, args: Any) -> Any:
        if not isinstance(of, Named) or not isinstance(args, tuple):
            raise PickleError("its pickle calls an object that is not a name")
        call = self._calls.get(of.name)
        if call is None:
            return self._nested(Stub(of.name, args), args)
        return call(args)

    def _put(self, key: Any) -> None:
        self._memo[int(key)] = self._stack[-1]

    def _get(self, key: Any) -> None:
        self._stack.append(self._memo[int(key)])

    _do_put = _do_binput = _do_long_binput = _put
    _do_get = _do_binget = _do_long_binget = _get

    def _do_memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _do_mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _do_pop(self, _: Any) -> None:
        self._stack.pop()

    def _do_pop_mark(self, _: Any) -> None:
        self._above_mark()

    def _do_dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _tuple(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(self._nested(items, items))

    def _do_tuple1(self, _: Any) -> None:
        self._tuple(1)

    def _do_tuple2(self, _: Any) -> None:
        self._tuple(2)

    def _do_tuple3(self, _: Any) -> None:
        self._tuple(3)

    def _do_tuple(self, _: Any) -> None:
        items = tuple(self._above_mark())
        self._stack.append(self._nested(items, items))

    def _do_list(self, _: Any) -> None:
        items = self._above_mark()
        self._stack.append(self._nested(items, items))

    def _do_dict(self, _: Any) -> None:
        items = self._above_mark()
        self._stack.append(self._nested({}, ()))
        self._set_items(items)

    def _do_frozenset(self, _: Any) -> None:
        self._stack.append(frozenset(_key(x) for x in self._above_mark()))

    def _do_additems(self, _: Any) -> None:
        items = self._above_mark()
        self._stack[-1].update(_key(x) for x in items)

    def _do_append(self, _: Any) -> None:
        self._extend([self._stack.pop()])

    def _do_appends(self, _: Any) -> None:
        self._extend(self._above_mark())

    def _extend(self, items: list[Any]) -> None:
        at = self._stack[-1]
        if isinstance(at, Stub):
            at.__dict__.setdefault("list", []).extend(items)
        elif isinstance(at, list):
            at.extend(items)
        else:
            raise PickleError(f"its pickle appends to {type(at).__name__}")
        self._nested(at, items)

    def _do_setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _do_setitems(self, _: Any) -> None:
        self._set_items(self._above_mark())

    def _set_items(self, items: list[Any]) -> None:
        at = self._stack[-1]
        if isinstance(at, Stub):
            into = at.__dict__.setdefault("items", {})
        elif isinstance(at, dict):
            into = at
        else:
            raise PickleError(f"its pickle sets an item of {type(at).__name__}")
        into.update({_key(k): v for k, v in zip(items[::2], items[1::2], strict=True)})
        self._nested(at, items)

    def _do_global(self, arg: Any) -> None:
        self._stack.append(Named(str(arg).replace(" ", ".", 1)))

    def _do_stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(Named(f"{module}.{name}"))

    def _do_inst(self, arg: Any) -> None:
        args = tuple(self._above_mark())
        self._stack.append(self._new(Named(str(arg).replace(" ", ".", 1)), args))

    def _do_obj(self, _: Any) -> None:
        of, *args = self._above_mark()
        self._stack.append(self._new(of, tuple(args)))

    def _do_reduce(self, _: Any) -> None:
        args, of = self._stack.pop(), self._stack.pop()
        self._stack.append(self._new(of, args))

    _do_newobj = _do_reduce

    def _do_newobj_ex(self, _: Any) -> None:
        options, args, of = (self._stack.pop() for _ in range(3))
        self._stack.append(self._new(of, (*args, options)))

    def _do_build(self, _: Any) -> None:
        state, at = self._stack.pop(), self._stack[-1]
        if isinstance(at, Stub):
            at.__dict__["state"] = state
            self._nested(at, (state,))
        elif not isinstance(at, dict):  # attributes of an OrderedDict are not needed
            raise PickleError(f"its pickle gives {type(at).__name__} a state")

    def _do_binpersid(self, _: Any) -> None:
        given = self._stack.pop()
        if not isinstance(given, tuple):
            raise PickleError("its pickle names a storage in an unknown form")
        self._stack.append(self._storage(given))


_IGNORED = ("PROTO", "FRAME")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}


def _key(value: Any, inside: bool = False) -> Any:
    """Returns a key of a dict or set; only of types with a cheap hash without collisions."""
    if isinstance(value, tuple) and len(value) <= 16 and not inside:
        return tuple(_key(x, inside=True) for x in value)
    if isinstance(value, int) and value.bit_length() > 63:
        raise PickleError("its pickle has a key of more than 63 bits")
    if isinstance(value, (*_KEY_TYPES, Stub, Named)):
        return value
    raise PickleError(f"its pickle has a key that is {type(value).__name__}")


def plain(value: Any) -> Any:
    """Turns stubs of omegaconf, enums and namespaces into dicts, lists and values.

    Raises PickleError if they are nested too deeply or hold too many values.
    """
    left = [MAX_STEPS // 8]

    def of(value: Any, depth: int) -> Any:
        left[0] -= 1
        if depth > MAX_DEPTH or left[0] < 0:
            raise PickleError(
                f"its config nests deeper than {MAX_DEPTH} or holds more than {MAX_STEPS // 8:,} "
                f"values"
            )
        if isinstance(value, Stub):
            return of(_inside(value), depth + 1)
        if isinstance(value, Named):
            return value.name
        if isinstance(value, dict):
            return {_hashable(of(k, depth + 1)): of(v, depth + 1) for k, v in value.items()}
        return [of(v, depth + 1) for v in value] if isinstance(value, list | tuple) else value

    return of(value, 0)


def _inside(stub: Stub) -> Any:
    """Returns the content of a stub: that of a config node, the value of an enum, or a state."""
    state = stub.__dict__.get("state")
    for key in ("_content", "_val"):
        if isinstance(state, dict) and key in state:
            return state[key]
    if stub.args:
        return stub.args[0]
    return stub.__dict__.get("list", stub.__dict__.get("items", state))


def _hashable(key: Any) -> Any:
    return str(key) if isinstance(key, list | dict) else key
