# SPDX-License-Identifier: Apache-2.0
"""Trees in files: what was saved comes back, and anything else is refused.

The other side is the library safetensors: what it reads from our files, and what it
writes for us to refuse.
"""

import dataclasses
import itertools
import json
import os
import pickle
import re
import resource
import sys
import threading
import zlib
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings

import functorch_lab as fl
from functorch_lab import optim, train, tree
from functorch_lab.train import _format
from functorch_lab.train._save import read_metadata
from trees import Node, Pair, trees, zoo


@tree.dataclass
class Named:
    value: Any
    name: str = tree.static()
    sizes: Any = tree.static()


@dataclasses.dataclass
class Plain:
    a: Any


PLAIN = f"{Plain.__module__}.Plain"


class Other(NamedTuple):
    weight: Any
    bias: Any


def values(*shape: int, start: float = 2.0) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return (torch.arange(count) * 0.37 + start).reshape(shape)


def assert_same(found: Any, expected: Any) -> None:
    """The same bits, and the same containers down to the order of their keys."""
    assert repr(tree.structure(found)) == repr(tree.structure(expected))
    assert tree.structure(found) == tree.structure(expected)
    for got, leaf in zip(tree.leaves(found), tree.leaves(expected), strict=True):
        torch.testing.assert_close(got, leaf, rtol=0, atol=0, equal_nan=True)


def there_and_back(folder: Path, saved: Any, *args: Any, **options: Any) -> Any:
    train.save(folder / "a.safetensors", saved)
    return train.restore(folder / "a.safetensors", *args, **options)


# What comes back


def test_every_container_comes_back(tmp_path: Path) -> None:
    saved = zoo() | {"d": {7: values(2), "7": [values(3)], (2, "x"): (), True: {}}}
    assert_same(there_and_back(tmp_path, saved), saved)
    found = there_and_back(tmp_path, zoo(), zoo())
    assert_same(found, zoo())
    assert found["d"].default_factory is list


@settings(max_examples=50, deadline=None)
@given(trees())
def test_any_tree_comes_back_as_its_like(
    tmp_path_factory: pytest.TempPathFactory, saved: Any
) -> None:
    folder = tmp_path_factory.mktemp("save")
    like = tree.map(lambda leaf: torch.empty_like(leaf, device="meta"), saved)
    assert_same(there_and_back(folder, saved, like), saved)


def test_static_fields_come_back(tmp_path: Path) -> None:
    saved = [Named(values(2), "a b", (3, None, torch.bfloat16, 2.5, True))]
    found = there_and_back(tmp_path, saved)
    assert_same(found, saved)
    assert found[0].sizes == saved[0].sizes
    for static in ("other", (3, None, torch.float16, 2.5, True)):
        changes = {"name" if static == "other" else "sizes": static}
        like = [dataclasses.replace(saved[0], **changes)]
        with pytest.raises(ValueError, match=r"differ at \[0\]: expected a .*Named"):
            there_and_back(tmp_path, saved, like)


@pytest.mark.parametrize("dtype", _format.DTYPES.values(), ids=str)
def test_every_dtype_comes_back_and_safetensors_reads_it(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    bits = torch.arange(2, 2 + 3 * 5 * dtype.itemsize, dtype=torch.uint8)
    leaf = (bits % 2 if dtype == torch.bool else bits).view(dtype).reshape(3, 5)
    saved = {"b": leaf, "a": leaf[0, 0].clone(), "e": leaf[:, :0], "z": values(7)}
    found = there_and_back(tmp_path, saved)
    for read in (found, safetensors.torch.load_file(tmp_path / "a.safetensors")):
        assert set(read) == set(saved)
        for name, expected in saved.items():
            assert read[name].dtype == expected.dtype
            assert read[name].shape == expected.shape
            got, same = (x.contiguous().view(-1) for x in (read[name], expected))
            assert torch.equal(got.view(torch.uint8), same.view(torch.uint8))


def test_views_come_back_as_values(tmp_path: Path) -> None:
    whole = values(5, 7)
    numbers = torch.complex(values(3), values(3, start=5.0))
    saved = {
        "transposed": whole.T,
        "strided": whole[1:4:2, ::3],
        "expanded": values(3, 1).expand(3, 2),
        "same": [whole, whole],
        "conjugate": numbers.conj(),
        "negative": numbers.conj().imag,
        "trained": values(2).requires_grad_(),
        "parameter": torch.nn.Parameter(values(3)),
    }
    with torch.inference_mode():
        saved["inferred"] = values(5)
    found = there_and_back(tmp_path, saved)
    assert_same(found, tree.map(lambda x: x.detach().resolve_conj(), saved))
    assert not any(leaf.requires_grad for leaf in tree.leaves(found))
    assert all(type(leaf) is torch.Tensor for leaf in tree.leaves(found))
    found["same"][0].mul_(3)
    torch.testing.assert_close(found["same"][1], whole)


@pytest.mark.parametrize("saved", [values(2, 3), {}, (), [(), {}]], ids=repr)
def test_the_smallest_trees_come_back(tmp_path: Path, saved: Any) -> None:
    assert_same(there_and_back(tmp_path, saved), saved)
    assert_same(there_and_back(tmp_path, saved, saved), saved)


@pytest.mark.parametrize(
    ("saved", "names"),
    [
        ({"a": [values(2), values(3)]}, {"a.0", "a.1"}),
        ({"a.b": values(2), "ä ö": values(3)}, {"a.b", "ä ö"}),
        ({"a.b": values(2), "a": {"b": values(3)}}, {"['a.b']", "['a']['b']"}),
        ({"a": {0: values(2), "0": values(3)}}, {"['a'][0]", "['a']['0']"}),
        ({"__metadata__": values(2)}, {"['__metadata__']"}),
        ({"\ud800\n": values(2)}, {r"['\ud800\n']"}),
        ({'"}': values(2), "": values(3)}, {'"}', ""}),
    ],
)
def test_names_in_the_file(tmp_path: Path, saved: Any, names: set[str]) -> None:
    assert_same(there_and_back(tmp_path, saved), saved)
    read = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert set(read) == names


def test_a_training_state_comes_back(tmp_path: Path) -> None:
    model = fl.nn.sequential(fl.nn.linear(3, 5), fl.nn.relu, fl.nn.linear(5, 2))
    schedule = optim.schedules.cosine(1e-2, 7)
    optimizer = optim.chain(optim.clip_by_global_norm(2.0), optim.adamw(lr=schedule))
    key = fl.random.key(3)
    state = train.init(
        model.init(key), optimizer, key=key, model_state={"mean": values(5)}
    )
    assert_same(there_and_back(tmp_path, state), state)
    assert_same(there_and_back(tmp_path, state, state), state)


def test_a_deep_tree_comes_back(tmp_path: Path) -> None:
    saved: Any = values(2)
    for i in range(100):
        saved = {"x": saved} if i % 2 else [saved]
    assert_same(there_and_back(tmp_path, saved), saved)
    for i in range(2000):
        saved = {"x": saved} if i % 2 else [saved]
    with pytest.raises(ValueError, match="tree: expected some hundred levels at most"):
        train.save(tmp_path / "b.safetensors", saved)


def test_leaves_own_writable_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    train.save(path, [values(3, 5)])
    found = train.restore(path)
    train.save(path, [values(3, 5, start=7.0)])
    path.write_bytes(b"\0" * path.stat().st_size)
    torch.testing.assert_close(found[0], values(3, 5))
    found[0].mul_(2)
    torch.testing.assert_close(found[0], 2 * values(3, 5))


def test_metadata(tmp_path: Path) -> None:
    path, noted = tmp_path / "a.safetensors", {"a": [2, None], "ü": float("inf")}
    train.save(path, [values(2)], metadata=noted)
    assert read_metadata(path) == noted
    train.save(path, [values(2)])
    assert read_metadata(path) == {}


def test_large_tensors_are_read_and_written_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_format, "_CHUNK", 7)
    monkeypatch.setattr(_format, "_GROUP", 40)
    saved = {str(i): values(i, start=float(i)) for i in range(2, 23)}
    assert_same(there_and_back(tmp_path, saved), saved)
    assert safetensors.torch.load_file(tmp_path / "a.safetensors").keys() == set(saved)


# like=, pattern=, device=


def test_like_decides_on_containers_and_devices(tmp_path: Path) -> None:
    saved = {"b": values(2), "a": Pair(values(3), values(5))}
    like: Any = OrderedDict(
        a=Other(*(torch.empty(n, device="meta") for n in (3, 5))), b=values(2)
    )
    with pytest.raises(ValueError, match=r"differ at \['a'\]: expected a .*Other"):
        there_and_back(tmp_path, saved, like)
    like["a"] = Pair(*like["a"])
    found = there_and_back(tmp_path, saved, like)
    assert list(found) == ["a", "b"]
    assert type(found) is OrderedDict
    assert_same(dict(found), {"a": saved["a"], "b": saved["b"]})
    on_meta = there_and_back(tmp_path, saved, device="meta")
    assert all(leaf.is_meta for leaf in tree.leaves(on_meta))


def test_a_class_may_have_moved(tmp_path: Path) -> None:
    class Moved(NamedTuple):
        right: Any
        left: Any

    found = there_and_back(
        tmp_path, Pair(values(2), values(3)), Moved(values(2), values(3))
    )
    assert type(found) is Moved
    torch.testing.assert_close(found.left, values(3))


LIKES = [
    ([values(2), values(3)], "the root: expected a list of 2, got a dict with keys"),
    ({"a": [values(2)]}, r"the root: expected a dict with keys 'a', got a dict with k"),
    ({"a": [values(2)], "b": values(5)}, r"\['a'\]: expected a list of 1, got a list"),
    (
        {"a": [values(2), values(7)], "b": values(3)},
        r"\['a'\]\[1\]: expected float32 \(7,\), got float32 \(3,\)",
    ),
    (
        {"a": [values(2), values(3).double()], "b": values(5)},
        r"\['a'\]\[1\]: expected float64 \(3,\), got float32 \(3,\)",
    ),
    ({"a": [values(2), ()], "b": values(5)}, r"\['a'\]\[1\]: expected \(\), got a ten"),
    ({"a": (values(2), values(3)), "b": values(5)}, r"\['a'\]: expected a tuple of 2"),
]


@pytest.mark.parametrize(("like", "message"), LIKES)
def test_the_first_difference_is_named(tmp_path: Path, like: Any, message: str) -> None:
    saved = {"a": [values(2), values(3)], "b": values(5)}
    with pytest.raises(ValueError, match="a.safetensors and like differ at " + message):
        there_and_back(tmp_path, saved, like)


def test_a_pattern_takes_a_part(tmp_path: Path) -> None:
    saved = {"encoder": [values(2), values(3)], "head": values(5)}
    like = {"encoder": [-values(2), -values(3)], "head": values(7), "new": values(2)}
    found = there_and_back(tmp_path, saved, like, pattern="encoder.*")
    assert_same(found, like | {"encoder": saved["encoder"]})
    assert found["head"] is like["head"]
    found = there_and_back(tmp_path, saved, pattern="*.1")
    assert_same(found, {"encoder": [(), values(3)], "head": ()})


@pytest.mark.parametrize(
    ("pattern", "like", "message"),
    [
        (
            "x.*",
            None,
            r"'x.\*', which matches no leaf of the file. It has a.0, a.1, b.",
        ),
        ("b", {"a": values(2)}, r"'b', which matches no leaf of like. It has a\."),
        (
            "a*",
            {"a": [values(2)]},
            r"at \['a'\]\[1\]: expected no tensor, got a tensor",
        ),
        (
            "a*",
            {"a": [values(2), values(3), values(5)]},
            r"at \['a'\]\[2\]: expected a tensor, got no tensor",
        ),
        ("b", {"b": values(2)}, r"at \['b'\]: expected float32 \(2,\), got float32"),
    ],
)
def test_a_pattern_is_held_to(
    tmp_path: Path, pattern: str, like: Any, message: str
) -> None:
    saved = {"a": [values(2), values(3)], "b": values(5)}
    with pytest.raises(ValueError, match=message):
        there_and_back(tmp_path, saved, like, pattern=pattern)


def test_a_pattern_reads_no_more_than_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    train.save(path, {"a": values(2), "b": values(3)})
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1  # the last tensor is b
    path.write_bytes(raw)
    assert_same(train.restore(path, pattern="a"), {"a": values(2), "b": ()})
    with pytest.raises(ValueError, match=r"the tensor at \['b'\] does not match"):
        train.restore(path)


def test_wrong_arguments_of_restore(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=r"like: expected tensors, got a float at \[1\]"
    ):
        there_and_back(tmp_path, [values(2)], [values(2), 2.5])
    with pytest.raises(TypeError, match=r"like: expected tensors, got a NoneType at "):
        there_and_back(tmp_path, [values(2)], [None])
    with pytest.raises(TypeError, match=r"pattern: expected a glob .*, got a int"):
        there_and_back(tmp_path, [values(2)], pattern=3)
    with pytest.raises(
        ValueError, match="device: expected one of this machine, got 'x"
    ):
        there_and_back(tmp_path, [values(2)], device="xyz")


# Classes that a file names


def make(kind: str, name: str) -> Any:
    """A node of a class that is not found under its name."""

    class Tuple(NamedTuple):
        a: Any

    @tree.dataclass
    class Data:
        a: Any

    found: Any = Tuple if kind == "namedtuple" else Data
    found.__module__, _, found.__qualname__ = name.rpartition(".")
    return found(values(2))


@pytest.mark.parametrize("kind", ["namedtuple", "dataclass"])
@pytest.mark.parametrize("module", ["nowhere", "this", "test_save"])
def test_an_unknown_class_needs_like(tmp_path: Path, kind: str, module: str) -> None:
    node = make(kind, f"{module}.Lost")
    message = rf"got {module}.Lost at \['n'\] in .* Import the module .* or pass like="
    with pytest.raises(ValueError, match=message):
        there_and_back(tmp_path, {"n": node})
    assert_same(there_and_back(tmp_path, {"n": node}, {"n": node}), {"n": node})
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    "name",
    [
        "builtins.print",
        "subprocess.Popen",
        "trees.Node",
        "trees.Pair",
        "sys.path",
        PLAIN,
    ],
)
def test_only_nodes_of_the_recorded_fields_are_built(tmp_path: Path, name: str) -> None:
    node = make("dataclass", name)
    with pytest.raises(ValueError, match=f"got {name}.* at the root"):
        there_and_back(tmp_path, node)


def test_what_cannot_be_rebuilt_needs_like(tmp_path: Path) -> None:
    for saved in ({"d": defaultdict(list, x=values(2))}, {"d": Named((), "n", {2})}):
        with pytest.raises(ValueError, match=r"at \['d'\] in .* or pass like="):
            there_and_back(tmp_path, saved)
        assert_same(there_and_back(tmp_path, saved, saved), saved)


def test_nodes_of_other_libraries_need_like(tmp_path: Path) -> None:
    saved = [torch.max(values(3, 5), dim=0), values(2)]
    with pytest.raises(ValueError, match=r"torch.return_types.max at \[0\] in"):
        there_and_back(tmp_path, saved)
    found = there_and_back(tmp_path, saved, saved)
    assert type(found[0]) is torch.return_types.max
    assert_same(found, saved)


# What cannot be saved


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(values(3), 0.5, 3, torch.qint8)


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (2.5, "a float at PATH. Make a number a tensor"),
        ("text", "a str at PATH"),
        (torch.eye(3).to_sparse(), r"a torch.sparse_coo tensor at PATH.*to_dense\(\)"),
        (torch.empty(3, device="meta"), "a meta tensor at PATH.*have values"),
        (values(3).to(torch.complex128), "a torch.complex128 tensor at PATH.*convert"),
        (
            torch.nn.parameter.UninitializedParameter(),
            "a UninitializedParameter at PATH",
        ),
    ],
)
def test_other_leaves_are_refused(tmp_path: Path, leaf: Any, message: str) -> None:
    path = tmp_path / "a.safetensors"
    message = message.replace("PATH", r"\['x'\]\[1\]")
    with pytest.raises(
        TypeError, match="train.save: tree: expected .*, got " + message
    ):
        train.save(path, {"w": values(2), "x": [values(3), leaf]})
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_nested_tensors_are_refused(tmp_path: Path) -> None:
    nested = torch.nested.nested_tensor([values(2), values(3)])
    with pytest.raises(TypeError, match=r"got a nested tensor at \[0\]. Save .*unbind"):
        train.save(tmp_path / "a", [nested])


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_quantized_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=r"got a torch.qint8 tensor at \[0\]. Save .*deq"
    ):
        train.save(tmp_path / "a", [quantized()])


def test_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train.save: .* got None at \['a'\]\[0\]"):
        train.save(tmp_path / "a", {"a": [None]})


def test_tensors_of_a_transform_are_refused(tmp_path: Path) -> None:
    def saved(x: torch.Tensor) -> torch.Tensor:
        train.save(tmp_path / "a", [x])
        return x

    for call in (fl.vmap(saved), lambda x: fl.eval_shape(saved, x)):
        with pytest.raises(
            TypeError, match=r"at \[0\]. Save outside of grad, vmap and"
        ):
            call(values(2))
    assert not list(tmp_path.iterdir())


def test_donated_tensors_tell_of_it(tmp_path: Path) -> None:
    @fl.jit(donate_argnums=0)
    def double(params: Any) -> Any:
        return tree.scale(params, 2.0)

    params = {"w": values(2)}
    with fl.disable_jit():
        double(params)
    with pytest.raises(RuntimeError, match=r"params\['w'\] was donated to double"):
        train.save(tmp_path / "a", params)
    with pytest.raises(RuntimeError, match=r"params\['w'\] was donated to double"):
        there_and_back(tmp_path, {"w": values(2)}, params)


@pytest.mark.parametrize("key", [frozenset("a"), (2, object), (2, float("nan"))])
def test_other_keys_are_refused(tmp_path: Path, key: Any) -> None:
    with pytest.raises(
        TypeError, match=r"train.save: tree: expected keys .* at \['a'\]"
    ):
        train.save(tmp_path / "a", {"a": {key: values(2)}})


def test_metadata_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    for metadata, message in (({"a": values(2)}, "Tensor is not"), ([2], "got a list")):
        with pytest.raises(TypeError, match=f"train.save: metadata: .*{message}"):
            train.save(tmp_path / "a", [values(2)], metadata=metadata)  # pyright: ignore
    assert not list(tmp_path.iterdir())


# Files that are refused


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small file, with an empty tensor, one byte, and several."""
    path = tmp_path_factory.mktemp("small") / "a.safetensors"
    flag = torch.tensor(True)
    train.save(path, {"w": values(3), "f": flag, "e": values(0)}, metadata={"a": "b"})
    return path.read_bytes()


REFUSED = r"train.restore: path: expected a file that train.save wrote, got a"


def test_every_flipped_bit_is_found(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(small)
    header = 8 + int.from_bytes(small[:8], "little")
    with path.open("r+b", buffering=0) as file:
        for place, bit in itertools.product(range(len(small)), range(8)):
            os.pwrite(file.fileno(), bytes([small[place] ^ 1 << bit]), place)
            message = REFUSED
            if place >= header:
                name = "f" if place == len(small) - 1 else "w"
                message += rf" corrupted file, the tensor at \['{name}'\] does not m"
            with pytest.raises(ValueError, match=message):
                train.restore(path)
            os.pwrite(file.fileno(), small[place : place + 1], place)
    assert train.restore(path)["f"]


def test_every_truncation_is_found(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(small)
    header = 8 + int.from_bytes(small[:8], "little")
    for length in reversed(range(len(small))):
        os.truncate(path, length)
        message = REFUSED + ("n empty file" if length == 0 else " truncated file")
        if length >= header:
            name = "f" if length == len(small) - 1 else "w"
            message += (
                rf", {length} bytes of .*: the tensor at \['{name}'\] is not whole"
            )
        elif 0 < length <= 8:
            message = REFUSED
        with pytest.raises(ValueError, match=message):
            train.restore(path)


def test_bytes_that_do_not_belong_are_found(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(small + b"\0")
    with pytest.raises(ValueError, match="with 1 bytes too many"):
        train.restore(path)


def foreign(kind: str, path: Path) -> None:
    if kind == "safetensors":
        safetensors.torch.save_file({"w": values(3)}, path, {"format": "pt"})
    elif kind == "torch":
        torch.save({"w": values(3)}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"w": 3}))
    else:
        path.write_bytes({"text": b"some text, no more", "zeros": bytes(64)}[kind])


@pytest.mark.parametrize("kind", ["safetensors", "torch", "pickle", "text", "zeros"])
def test_foreign_files_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.bin"
    foreign(kind, path)
    message = "file of another kind"
    if kind == "safetensors":
        message = "safetensors file of other origin.*load_file.*tree.from_state_dict"
    with pytest.raises(ValueError, match=f"{REFUSED} {message}"):
        train.restore(path)
    with pytest.raises(ValueError, match=f"{REFUSED} {message}"):
        read_metadata(path)


def test_a_later_format_is_refused(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(small.replace(b'"functorch_lab":"1"', b'"functorch_lab":"2"'))
    with pytest.raises(
        ValueError, match=r"a file of format 2, where this version .* 1"
    ):
        train.restore(path)


def test_the_checksum_is_the_crc_of_zip_files(small: bytes) -> None:
    # So that another program can check a file: CRC-32 of the header with zeros in the
    # place of its own checksum, and of each tensor's bytes.
    length = 8 + int.from_bytes(small[:8], "little")
    own = json.loads(small[8:length])["__metadata__"]
    zeros = small[:length].replace(own["header"].encode(), b"0" * 8, 1)
    assert own["header"] == f"{zlib.crc32(zeros):08x}"
    sums = re.findall("........", own["tensors"])
    assert sums[-1] == f"{zlib.crc32(small[-1:]):08x}"


# The system says no


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", ": it is a folder. Pass another path."),
        ("none/a", "there is no such folder. Make .*none first."),
        ("a" * 300, "File name too long. Pass another path."),
        ("a\0b", "a zero byte is in its name. Pass another path."),
    ],
)
def test_paths_that_cannot_be(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(
        OSError, match="save: path: .* that can be written, got .*" + message
    ):
        train.save(f"{tmp_path}/{name}", [values(2)])
    with pytest.raises(
        OSError, match="restore: path: .* that can be read, got .*" + message
    ):
        train.restore(f"{tmp_path}/{name}")
    assert not list(tmp_path.iterdir())


def test_a_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"text")
    with pytest.raises(OSError, match=r"train.save: path: .*/a is no folder. Pass an"):
        train.save(tmp_path / "a" / "b", [values(2)])


def test_a_missing_file_and_what_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"train.restore: path: .*No such file") as caught:
        train.restore(tmp_path / "a")
    assert len(caught.value.args) == 1
    with pytest.raises(
        TypeError, match=r"train.save: path: expected a path, got a int"
    ):
        train.save(3, [values(2)])  # pyright: ignore[reportArgumentType]


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for call in (lambda path: train.save(path, [values(2)]), train.restore):
        with pytest.raises(OSError, match=r"it is no file, but a device or a pipe"):
            call(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_a_tensor_that_changes_meanwhile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, saved = tmp_path / "a.safetensors", {"a": values(2), "b": values(3)}
    train.save(path, [values(5)])
    checksums = _format._checksums

    def changing(parts: Any) -> list[str]:
        saved["b"].mul_(2)
        return checksums(parts)

    monkeypatch.setattr(_format, "_checksums", changing)
    with pytest.raises(RuntimeError, match=r"save: tree: .* got b, which was ch"):
        train.save(path, saved)
    assert_same(train.restore(path), [values(5)])


def test_several_may_save_under_one_name(tmp_path: Path) -> None:
    path, failed = tmp_path / "a.safetensors", []

    def save_often(i: int) -> None:
        try:
            for _ in range(5):
                train.save(path, [torch.full((2**15 * i,), i)])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=save_often, args=(i,)) for i in (2, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    (found,) = train.restore(path)
    assert_same(found, torch.full((2**15 * int(found[0]),), int(found[0])))
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)  # who is root is never refused
    with pytest.raises(
        OSError, match=r"written, got .*: Permission denied. Pass anoth"
    ):
        train.save(tmp_path / "a", [values(2)])


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    train.save(path, [values(3)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, before[1]))
    try:
        with pytest.raises(OSError, match=r"train.save: path: .*File too large"):
            train.save(path, [values(3), values(2**20)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_same(train.restore(path), [values(3)])
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_saving_changes_nothing(tmp_path: Path) -> None:
    saved = zoo()
    train.save(tmp_path / "a.safetensors", saved)
    assert_same(saved, zoo())
    like = tree.zeros_like(saved)
    there_and_back(tmp_path, saved, like)
    assert_same(like, tree.zeros_like(saved))


def test_nodes_of_the_tests_are_found_by_name(tmp_path: Path) -> None:
    saved = Node(values(2), Pair(values(3), ()))
    assert_same(there_and_back(tmp_path, saved), saved)
