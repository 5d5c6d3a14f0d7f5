"""Open a hnswlib file whose checksum is right, and still trust nothing that hnswlib does not check."""

import struct
from pathlib import Path

import hnswlib
import numpy as np

from samestyle.errors import IntegrityError
from samestyle.index.exact import exact_search_blocks, held_nodes
from samestyle.release.manifest import Index, Shard

# Offset of level 0, room for nodes, nodes, bytes a node, offsets of label and of vector; highest level; entry
# point; links a node above, on level 0, M; level multiplier; ef_construction.
HEADER = struct.Struct("<6QiI3QdQ")
LABEL_BYTES = 8
LINKS_HEAD = 4
BLOCK = 8192
SAMPLE = 64
UNIT = 1e-3


def load_graph(path: Path, index: Index, shard: Shard) -> hnswlib.Index:
    """A shard, ready to search. Raises IntegrityError where it is not as the manifest says."""
    name = f"{index.module}/{index.view} shard {shard.shard} ({shard.graph.key})"
    check_header(path, index, shard, name)
    check_links(path, shard, name)
    graph = hnswlib.Index(space=index.space, dim=index.dim)
    try:
        graph.load_index(str(path), max_elements=shard.nodes)
    except RuntimeError as error:
        raise IntegrityError(f"{name} cannot be loaded: {error}") from error
    graph.set_num_threads(1)
    graph.set_ef(index.ef_search)
    check_labels(graph, shard, name)
    check_vectors(graph, shard, name)
    return graph


def check_header(path: Path, index: Index, shard: Shard, name: str) -> None:
    """hnswlib would take a file of other dimensions or links without a word."""
    with open(path, "rb") as stream:
        head = stream.read(HEADER.size)
    if len(head) < HEADER.size:
        raise IntegrityError(f"{name} has {len(head)} bytes, expected a header of {HEADER.size}")
    level0, _, nodes, node_bytes, label, vector, level, entry, upper, lowest, m, _, _ = HEADER.unpack(head)
    links = LINKS_HEAD + 8 * index.m
    expected = {
        "nodes": (nodes, shard.nodes),
        "dim": ((label - vector) / 4, index.dim),
        "m": ((m, upper, lowest), (index.m, index.m, 2 * index.m)),
        "layout": ((level0, vector, node_bytes), (0, links, links + 4 * index.dim + LABEL_BYTES)),
    }
    for field, (found, wanted) in expected.items():
        if found != wanted:
            raise IntegrityError(f"{name}: {field} in the file is {found}, the manifest says {wanted}")
    if entry >= nodes or not 0 <= level < 64:
        raise IntegrityError(f"{name}: entry point {entry} on level {level}, expected one of {nodes} nodes below 64")


def check_links(path: Path, shard: Shard, name: str) -> None:
    """No link may lead outside: hnswlib follows them blindly. Raises IntegrityError."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        _, _, nodes, node_bytes, _, links_end, *_ = HEADER.unpack(stream.read(HEADER.size))
        if HEADER.size + nodes * node_bytes > size:
            raise IntegrityError(f"{name} has {size} bytes, expected more for {nodes} nodes of {node_bytes}")
        stream.seek(HEADER.size)
        for start in range(0, nodes, BLOCK):
            rows = np.frombuffer(stream.read(min(BLOCK, nodes - start) * node_bytes), np.uint8)
            links = np.ascontiguousarray(rows.reshape(-1, node_bytes)[:, :links_end]).view(np.uint32)
            require_links(links, nodes, f"{name}, near node {start}")
        check_upper_links(stream.read(), links_end, nodes, name)


def require_links(links: np.ndarray, nodes: int, name: str) -> None:
    """links: (n, 1 + most) uint32, a count in the lower 16 bits of the first column and that many links."""
    counts = links[:, 0] & 0xFFFF
    most = links.shape[1] - 1
    used = np.arange(most) < counts[:, None]
    if counts.max(initial=0) > most or (links[:, 1:][used] >= nodes).any():
        raise IntegrityError(f"{name}: a link leads outside, expected at most {most} links below {nodes} each")


def check_upper_links(data: bytes, level0_bytes: int, nodes: int, name: str) -> None:
    """data: for each node the length of its upper levels, as uint32, then these: lists of half the width."""
    level_bytes = LINKS_HEAD + (level0_bytes - LINKS_HEAD) // 2
    position, lists = 0, []
    for node in range(nodes):
        length = int.from_bytes(data[position : position + 4], "little")
        position += 4 + length
        if length % level_bytes or position > len(data):
            raise IntegrityError(f"{name}: upper links of node {node} take {length} bytes, which do not fit")
        if length:
            lists.append(data[position - length : position])
    if position != len(data):
        raise IntegrityError(f"{name} has {len(data) - position} bytes more than its nodes need")
    if lists:
        require_links(np.frombuffer(b"".join(lists), np.uint32).reshape(-1, level_bytes // 4), nodes, name)


def check_labels(graph: hnswlib.Index, shard: Shard, name: str) -> None:
    labels = np.sort(np.asarray(graph.get_ids_list(), dtype=np.int64))
    if not np.array_equal(labels, np.arange(shard.nodes)):
        raise IntegrityError(f"{name}: labels are {labels[:3]} to {labels[-3:]}, expected 0 to {shard.nodes - 1}")


def check_vectors(graph: hnswlib.Index, shard: Shard, name: str) -> None:
    """Only for vectors of length 1 is the inner product the cosine that the manifest promises."""
    sample = np.unique(np.linspace(0, shard.nodes - 1, num=min(SAMPLE, shard.nodes), dtype=np.int64))
    lengths = np.linalg.norm(np.asarray(graph.get_items(sample), dtype=np.float32), axis=1)
    bad = ~(np.abs(lengths - 1) < UNIT)
    if bad.any():
        raise IntegrityError(f"{name}: vector {sample[bad][0]} has length {lengths[bad][0]}, expected 1")


def search_exactly(
    graph: hnswlib.Index, labels: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Brute force over the nodes `labels`, (n,) int64 rising, none deleted; returns as `exact_search`."""
    return exact_search_blocks(held_nodes(graph, labels), queries, k)
