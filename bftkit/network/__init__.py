"""How bytes travel between members and clients.

From the bottom up:

- `addresses`: where somebody can be reached. A name maps to several addresses, tried in order, changed at run time.
- `noise`: the Noise framework's handshakes and encrypted transport, checked against published vectors.
- `framing`: frames inside a byte stream, sized before anything is allocated for them.
- `session`: one encrypted, mutually authenticated connection, as an object without I/O.
- `hub`: what every driver offers its caller: `connect`, `listen`, `send`, `flush`, `poll`.
- `switchboard`: what all drivers share: routes to peers, bounded queues, redialling, events and counters.
- `tcp` and `memory`: the two drivers. `waker` lets another thread end their wait.

Everything is pure (bytes in, bytes out, no clock, no randomness, no sockets) except `tcp`, `memory` and `waker`.

A frame is one opaque byte string from a sender's `send` to a receiver's `poll`. A link keeps the order of its frames
and loses none while it lives; when a link dies, what was on its way is gone. Protocols must not rely on the network
to send again.

Left for later, with their places kept: `udp` (a driver of the same `Hub` interface, which runs `session` over
datagrams with a cookie for strangers) and `fragments` (frames larger than a datagram, with bounded reassembly).
`addresses` already reads ``udp://``; a hub without that driver refuses to dial it, and says so.
"""
