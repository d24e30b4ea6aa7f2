"""Overlay files: NCCL's topology XML (the format of ``NCCL_TOPO_FILE``), and a YAML of the same meaning.

The XML is what clouds ship and `NCCL_TOPO_DUMP_FILE` writes: ``system`` / ``cpu`` / ``pci`` (a switch is one
element, its upstream port) / ``gpu`` or ``nic`` / ``net``. It is read by expat with lines at hand, and a
document type, from which entities would come, is refused. docs/overlay.md describes both.
"""

from __future__ import annotations

import xml.parsers.expat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import yaml

from driver.devices import pci_address
from driver.errors import ConfigError
from driver.names import API_VERSION
from driver.overlay import Below, DataDirect, Overlay, Rail

KIND: Final = "Topology"
_LARGEST_FILE_BYTES = 4 << 20
_DEEPEST = 64
_DATA_DIRECT_SUFFIX = "_dma"  # NCCL's name for a NIC's second device: mlx5_0_dma
_BRIDGE_CLASS, _DEVICE_CLASSES = "0x0604", ("0x03", "0x02")


def load(path: Path) -> Overlay:
    """Read an overlay file of either form.

    Raises:
        ConfigError: it cannot be read, or is wrong; the message begins with file and line.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=str(path)) from error
    return parse(raw, source=str(path))


def parse(raw: bytes, *, source: str) -> Overlay:
    """Decode an overlay; XML is told from YAML by its first character.

    Raises:
        ConfigError: the file is wrong; the message begins with `source` and the line.
    """
    if len(raw) > _LARGEST_FILE_BYTES:
        raise ConfigError(
            f"has {len(raw)} bytes; more than {_LARGEST_FILE_BYTES} is no topology", path=source
        )
    overlay = parse_xml(raw, source=source) if raw.lstrip()[:1] == b"<" else parse_yaml(raw, source=source)
    seen: dict[str, int] = {}
    for device, line in [(e.device, e.line) for e in overlay.devices] + [
        (e.nic, e.line) for e in overlay.data_direct
    ]:
        if device in seen:
            raise overlay.error(line, f"{device} is listed twice (before in line {seen[device]})")
        seen[device] = line
    return overlay


# --- XML ------------------------------------------------------------------------------------------


class _Pci:
    """A ``pci`` element while it is read."""

    def __init__(self, address: str, class_code: str, line: int) -> None:
        self.address = address
        self.class_code = class_code
        self.line = line
        self.has_children = False
        self.is_device = False
        self.nets: list[str] = []


class _XmlReader:
    """Collects devices while expat walks the document."""

    def __init__(self, source: str) -> None:
        self._overlay = Overlay(source)
        self._elements: list[str] = []
        self._numa: int | None = None
        self._stack: list[_Pci] = []
        self._switches: dict[str, int] = {}
        self.devices: list[Below] = []
        self.data_direct: list[DataDirect] = []
        self.parser = xml.parsers.expat.ParserCreate()
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end

    def _error(self, message: str) -> ConfigError:
        return self._overlay.error(self.parser.CurrentLineNumber, message)

    def _doctype(self, *_: object) -> None:
        raise self._error("has a document type, which a topology does not need: entities are refused")

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        if not self._elements and name != "system":
            raise self._error(f"begins with <{name}>; a topology begins with <system>")
        if len(self._elements) >= _DEEPEST:
            raise self._error(f"is nested more than {_DEEPEST} deep")
        self._elements.append(name)
        if name == "cpu":
            self._numa = self._numa_node(attributes.get("numaid", "-1"))
        elif name == "pci":
            self._start_pci(attributes)
        elif name in ("gpu", "nic") and self._stack:
            self._stack[-1].is_device = True
        elif name == "net" and self._stack:
            self._stack[-1].nets.append(attributes.get("name", ""))

    def _start_pci(self, attributes: Mapping[str, str]) -> None:
        if "busid" not in attributes:
            raise self._error("<pci> has no busid")
        try:
            address = pci_address(attributes["busid"])
        except ValueError as error:
            raise self._error(f"busid: {error}") from error
        if self._stack:
            self._stack[-1].has_children = True
        class_code = attributes.get("class", "").lower()
        self._stack.append(_Pci(address, class_code, self.parser.CurrentLineNumber))

    def _numa_node(self, text: str) -> int | None:
        try:
            number = int(text)
        except ValueError as error:
            raise self._error(f'numaid="{text}" is no number') from error
        return number if number >= 0 else None

    def _end(self, name: str) -> None:
        self._elements.pop()
        if name == "cpu":
            self._numa = None
        if name != "pci":
            return
        pci = self._stack.pop()
        if pci.has_children or pci.class_code.startswith(_BRIDGE_CLASS):
            first = self._switches.setdefault(pci.address, pci.line)
            if first != pci.line:
                raise self._overlay.error(
                    pci.line, f"switch {pci.address} is listed twice (before in line {first})"
                )
            return
        if pci.class_code and not pci.is_device and not pci.class_code.startswith(_DEVICE_CLASSES):
            return  # an NVSwitch, a disk
        switches = tuple(above.address for above in self._stack)
        for net in pci.nets:
            if net.endswith(_DATA_DIRECT_SUFFIX):
                name = net.removesuffix(_DATA_DIRECT_SUFFIX)
                self.data_direct.append(DataDirect(name, pci.line, switches=switches, numa_node=self._numa))
                return
        self.devices.append(Below(pci.address, pci.line, switches, self._numa))


def parse_xml(raw: bytes, *, source: str) -> Overlay:
    """Decode NCCL's topology XML.

    Raises:
        ConfigError: no XML, no topology, or one that carries a document type.
    """
    reader = _XmlReader(source)
    try:
        reader.parser.Parse(raw, True)
    except xml.parsers.expat.ExpatError as error:
        raise ConfigError(
            f"is no XML: {xml.parsers.expat.ErrorString(error.code)}", path=f"{source}:{error.lineno}"
        ) from error
    return Overlay(source, tuple(reader.devices), tuple(reader.data_direct))


# --- YAML -----------------------------------------------------------------------------------------


class _YamlReader:
    """Walks YAML nodes, which know their lines, and whose scalars are still text (YAML takes
    ``0101:00:00.0`` for a number in base 60).
    """

    def __init__(self, source: str) -> None:
        self._overlay = Overlay(source)
        self._names: set[str] = set()

    def error(self, node: yaml.Node, message: str) -> ConfigError:
        return self._overlay.error(node.start_mark.line + 1, message)

    def document(self, root: yaml.Node) -> Overlay:
        fields = self._mapping(root, {"apiVersion", "kind", "switches", "dataDirect", "rails"})
        for name, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
            found = self._text(fields[name]) if name in fields else ""
            if found != expected:
                raise self.error(fields.get(name, root), f"{name} is {found!r}; right is {expected}")
        return Overlay(
            self._overlay.source,
            devices=tuple(
                device
                for node in self._items(fields.get("switches"))
                for device in self._switch(node, (), None)
            ),
            data_direct=tuple(self._data_direct(node) for node in self._items(fields.get("dataDirect"))),
            rails=tuple(self._rails(fields.get("rails"))),
        )

    def _switch(self, node: yaml.Node, above: tuple[str, ...], numa: int | None) -> Iterator[Below]:
        if len(above) >= _DEEPEST:
            raise self.error(node, f"is nested more than {_DEEPEST} deep")
        fields = self._mapping(node, {"name", "numaNode", "devices", "switches"})
        devices = self._items(fields.get("devices"))
        unnamed = self._address(devices[0]) if devices else f"line-{node.start_mark.line + 1}"
        name = self._text(fields["name"]) if "name" in fields else f"switch-of-{unnamed}"
        if name in self._names:
            raise self.error(node, f"switch {name} is listed twice")
        self._names.add(name)
        if "numaNode" in fields:
            numa = self._number(fields["numaNode"])
        path = (*above, name)
        for device in devices:
            yield Below(self._address(device), device.start_mark.line + 1, path, numa)
        for inner in self._items(fields.get("switches")):
            yield from self._switch(inner, path, numa)

    def _data_direct(self, node: yaml.Node) -> DataDirect:
        fields = self._mapping(node, {"nic", "gpu"})
        if fields.keys() != {"nic", "gpu"}:
            raise self.error(node, "names nic and gpu, both as PCI addresses")
        return DataDirect(
            self._address(fields["nic"]), node.start_mark.line + 1, gpu=self._address(fields["gpu"])
        )

    def _rails(self, node: yaml.Node | None) -> Iterator[Rail]:
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, "rails is a mapping: PCI address to rail")
        seen: set[str] = set()
        for key, value in node.value:
            address = self._address(key)
            if address in seen:
                raise self.error(key, f"{address} is listed twice")
            seen.add(address)
            yield Rail(address, key.start_mark.line + 1, self._number(value))

    def _mapping(self, node: yaml.Node, known: set[str]) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, f"is no mapping; its fields are {', '.join(sorted(known))}")
        fields: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self._text(key)
            if name not in known:
                raise self.error(key, f"unknown field {name}; known are {', '.join(sorted(known))}")
            if name in fields:
                raise self.error(key, f"{name} is given twice")
            fields[name] = value
        return fields

    def _items(self, node: yaml.Node | None) -> list[yaml.Node]:
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, "is no list")
        return list(node.value)

    def _text(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(node, "is no text")
        return str(node.value)

    def _address(self, node: yaml.Node) -> str:
        try:
            return pci_address(self._text(node))
        except ValueError as error:
            raise self.error(node, str(error)) from error

    def _number(self, node: yaml.Node) -> int:
        text = self._text(node)
        if not text.isascii() or not text.isdecimal() or len(text) > 9:
            raise self.error(node, f"{text!r} is no number from 0 up")
        return int(text)


def parse_yaml(raw: bytes, *, source: str) -> Overlay:
    """Decode the YAML form.

    Raises:
        ConfigError: no YAML, an unknown field, no PCI address…
    """
    try:
        text = raw.decode()
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
            raise ConfigError("has aliases (*name), which a topology does not need", path=source)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise ConfigError(f"is no YAML: {error.problem}", path=f"{source}:{line}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"is no YAML: {error}", path=source) from error
    if root is None:
        raise ConfigError("is empty", path=source)
    return _YamlReader(source).document(root)
