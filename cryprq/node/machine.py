"""What a node holds of the machine: the TUN device, the UDP sockets and the data plane between them."""

from collections.abc import Iterable, Mapping
from typing import Final

from cryprq._fastpath import OFFLOADS, Plane, PlaneError
from cryprq.config.node_config import NodeConfig
from cryprq.errors import MachineError
from cryprq.linux.interface_state import InterfaceState
from cryprq.linux.name_service import lookup_uid
from cryprq.linux.route_plan import RoutePlan
from cryprq.linux.socket_groups import SocketGroups, open_groups
from cryprq.linux.surroundings import Way, way_to
from cryprq.linux.tun import Tun
from cryprq.linux.udp import UdpSocket
from cryprq.linux.udp_sockets import UdpSockets


class Machine:
    """Descriptors and workers of one node, opened in the order that makes the commonest mistakes show first, closed in
    the opposite one."""

    def __init__(self, config: NodeConfig) -> None:
        """Makes the TUN (which needs privilege), binds the ports and joins them; no worker runs yet. MachineError, with
        nothing left behind."""
        wanted = frozenset(OFFLOADS) - config.disabled_offloads
        self._disabled: Final = config.disabled_offloads
        self.tun: Final = Tun.open(config.tun_name, config.workers, wanted, config.mtu)
        try:
            self.interface: Final = InterfaceState(self.tun, _route_plan(config))
            self.interface.begin()
            for address in config.tun_addresses:
                self.interface.add_address(address)
            self.interface.up()
            self.sockets: Final[SocketGroups] = open_groups(
                config.listen, config.workers, udp_gro="udp_gro" in wanted, udp_segment="udp_segment" in wanted
            )
            try:
                if config.lane_ports:
                    self.sockets.dialling.open_lanes()
                if config.fwmark is not None:
                    self.sockets.set_mark(config.fwmark)
                self.interface.before_rules = self.sockets.set_mark
                if self.sockets.listening:
                    self.interface.listens(group.port for group in self.sockets.listening)
                self.udp: Final = _control_sockets(self.sockets)
                self._used: Final = self._usable(wanted)
                self.plane: Final = Plane(
                    self.tun.fds,
                    [[member.fileno() for member in group.data] for group in self.sockets],
                    mtu=config.mtu,
                    offloads=self._used,
                    busy_poll_us=config.busy_poll_us,
                    dscp=config.dscp,
                    lane_fds=[member.fileno() for member in self.sockets.dialling.lanes],
                    dial_group=self.sockets.dials_by,
                )
                self.interface.before_rules = self._set_mark
            except BaseException:
                self.sockets.close()
                raise
        except PlaneError as error:
            self.tun.close()
            raise MachineError(str(error)) from error
        except BaseException:
            self.tun.close()
            raise

    def start(self) -> None:
        """Starts the workers. MachineError."""
        try:
            self.plane.start()
        except PlaneError as error:
            raise MachineError(str(error)) from error

    def _set_mark(self, mark: int) -> None:
        """Of all that the node sends from now on, peers' own sockets included. MachineError."""
        self.sockets.set_mark(mark)
        self.plane.sockets_replaced()

    def move_port(self) -> None:
        """Another UDP port to dial from (``SocketGroup.move``); nobody but the workers may be reading. MachineError,
        with nothing changed."""
        self.sockets.dialling.move()
        self.plane.sockets_replaced()
        if isinstance(self.udp, UdpSockets):
            self.udp.replaced(self.sockets.dials_by)

    def way_to(self, host: str, group: int) -> Way:
        """The way to an address of what leaves by a socket group. OSError: there is none."""
        return way_to(host, self.sockets.mark, self.sockets[group].host)

    def close(self) -> None:
        """Ends the workers, wipes every key and removes the TUN. Idempotent."""
        self.plane.stop()
        if isinstance(self.udp, UdpSockets):
            self.udp.close()
        self.sockets.close()
        try:
            self.interface.close()
        finally:
            self.tun.close()

    def failure(self) -> str | None:
        """What has died, in one line, or None: a worker, or the TUN that somebody removed."""
        if (reason := self.plane.failure()) is not None:
            return reason
        return f"the TUN {self.tun.name} is gone" if self.tun.name_now() is None else None

    def offloads(self) -> Mapping[str, str]:
        """By name: ``on``, ``off`` (switched off), or why it is not in use; and the sockets' receive buffer."""
        states = {
            name: "off" if name in self._disabled else "on" if name in self._used else "unavailable"
            for name in OFFLOADS
        }
        states |= {name: state for name, state in self.sockets.offloads.items() if states[name] == "unavailable"}
        if states["udp_segment"] == "on" and (refused := self.plane.segment_refused()):
            ports = "" if len(refused) == len(self.sockets) else f" of port {_ports(self.sockets, refused)}"
            states["udp_segment"] = f"refused by the path{ports}"
        if states["coalesce"] == "on" and (kinds := self.plane.merges_refused()):
            states["coalesce"] = f"refused by the TUN: {', '.join(kinds)}"
        return states | {"rcvbuf": str(self.sockets.rcvbuf)}

    def _usable(self, wanted: frozenset[str]) -> frozenset[str]:
        tun = frozenset({"vnet_hdr", "tso4", "tso6", "uso"})
        sockets = frozenset(self.sockets.offloads)
        used = (wanted - tun - sockets) | (wanted & self.tun.offloads)
        used |= {name for name, state in self.sockets.offloads.items() if state == "on"}
        # A super-packet is announced to the kernel in the vnet header.
        return used if "vnet_hdr" in used else used - {"coalesce"}


def _control_sockets(sockets: SocketGroups) -> UdpSocket | UdpSockets:
    """Socket 0 of every group, as one."""
    segment = sockets.offloads["udp_segment"] == "on"
    members = [UdpSocket(group.control, number, segment=segment) for number, group in enumerate(sockets)]
    return members[0] if len(members) == 1 else UdpSockets(members)


def _ports(sockets: SocketGroups, groups: Iterable[int]) -> str:
    return ", ".join(str(sockets[group].port) for group in groups)


def _route_plan(config: NodeConfig) -> RoutePlan:
    return RoutePlan(
        config.tun_name,
        route_table=config.route_table,
        fwmark=config.fwmark,
        kill_switch=config.kill_switch,
        lookup_uid=lookup_uid(),
    )
