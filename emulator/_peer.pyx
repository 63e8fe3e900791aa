"""The short way of a request: from a socket to the core and back, for many connections in one call.

A transport of asyncio or uvloop costs two to five microseconds of Python per request, more than a kernel's
whole read and write.  So a connection on a plain TCP socket pauses its transport and takes a place in a `Lane`:
one epoll descriptor that the event loop watches, whose `drain` reads, asks the core and writes, all compiled.

Rule of this file: only what is plain is done here.  Whatever else there is (the end of the stream, an error, a
client that does not read, half a frame, a bug of a unit) is handed to the connection's Python side in server.py,
which guards every connection, in a lane or not.  Where there is no epoll, nothing is in a lane.

References
----------
epoll(7): level-triggered, so that what one call leaves unread is reported by the next.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from ._modbus cimport Stream

from ._modbus import Connection

cdef extern from *:
    """
    #ifdef __linux__
    #include <errno.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <unistd.h>

    enum { RT_EVENTS_MAX = 256, RT_HAS_EPOLL = 1 };
    static struct epoll_event rt_events[RT_EVENTS_MAX];

    static int rt_open(void) { return epoll_create1(EPOLL_CLOEXEC); }
    static int rt_watch(int epoll, int fd)
    {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : errno;
    }
    static void rt_unwatch(int epoll, int fd) { epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL); }
    static int rt_wait(int epoll, int *fds)
    {
        int k, n = epoll_wait(epoll, rt_events, RT_EVENTS_MAX, 0);
        for (k = 0; k < n; k++)
            fds[k] = rt_events[k].data.fd;
        return n;
    }
    static Py_ssize_t rt_receive(int fd, unsigned char *into, Py_ssize_t size)
    {
        Py_ssize_t got = recv(fd, into, size, MSG_DONTWAIT);
        return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? -2 : got;
    }
    static Py_ssize_t rt_send(int fd, const char *from, Py_ssize_t size)
    {
        Py_ssize_t sent = send(fd, from, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        return sent < 0 ? 0 : sent;
    }
    static void rt_close(int epoll) { close(epoll); }
    #else
    enum { RT_EVENTS_MAX = 1, RT_HAS_EPOLL = 0 };
    static int rt_open(void) { return -1; }
    static int rt_watch(int epoll, int fd) { return 1; }
    static void rt_unwatch(int epoll, int fd) {}
    static int rt_wait(int epoll, int *fds) { return 0; }
    static Py_ssize_t rt_receive(int fd, unsigned char *into, Py_ssize_t size) { return -1; }
    static Py_ssize_t rt_send(int fd, const char *from, Py_ssize_t size) { return 0; }
    static void rt_close(int epoll) {}
    #endif
    """
    enum:
        RT_EVENTS_MAX
        RT_HAS_EPOLL
    int rt_open()
    int rt_watch(int epoll, int fd)
    void rt_unwatch(int epoll, int fd)
    int rt_wait(int epoll, int *fds)
    Py_ssize_t rt_receive(int fd, unsigned char *into, Py_ssize_t size)
    Py_ssize_t rt_send(int fd, const char *into, Py_ssize_t size)
    void rt_close(int epoll)

cdef enum:
    PIECE = 4096  # what the core gets at a time
    AGAIN = -2
    DISCARD = 64  # pieces, as much as a transport reads at a time
    TURNS = 4  # times that one call looks for more, so that the loop's other work waits a few ms at most

PIECE_BYTES = PIECE
"""The core gets its input in pieces of this size, so that one call makes 88 KiB of replies at most."""


cdef class Peer:
    """What a lane knows of one connection; server.py has the rest.

    Attributes
    ----------
    core : Core
        Answers what comes in.
    watched : bool
        A deadline is running, so the connection must be looked at after whatever comes in.
    timed : bool
        `heard_s` is kept.
    heard_s : float
        When something came in last, by the loop's clock [s].
    """

    cdef public object core
    cdef public bint watched
    cdef public bint timed
    cdef public double heard_s

    def look(self):
        """Deal with what the last piece has left: an error, the end of the stream, a frame half received."""
        raise NotImplementedError

    def leave(self, bytes rest not None):
        """Go on by the transport, which is to send `rest` first."""
        raise NotImplementedError

    def fail(self, error):
        """Close: answering has raised `error`, a bug of ours."""
        raise NotImplementedError


cdef class Lane:
    """Connections that are served in one call.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        Calls `drain` whenever a connection has sent something.

    Raises
    ------
    NotImplementedError
        The system has no epoll, or the loop watches no descriptors.
    OSError
        The system has no descriptor left.
    """

    cdef object loop
    cdef object time
    cdef dict peers  # by descriptor
    cdef int epoll
    cdef unsigned char piece[PIECE]

    def __cinit__(self):
        self.epoll = -1

    def __init__(self, loop):
        if not RT_HAS_EPOLL:
            raise NotImplementedError("no epoll on this system")
        self.epoll = rt_open()
        if self.epoll < 0:
            raise OSError("no descriptor left for a lane of connections")
        self.peers = {}
        self.time = loop.time
        loop.add_reader(self.epoll, self.drain)
        self.loop = loop

    def __dealloc__(self):
        if self.epoll >= 0:
            rt_close(self.epoll)

    def close(self):
        """Serve nobody any more."""
        if self.epoll >= 0:
            self.loop.remove_reader(self.epoll)
            rt_close(self.epoll)
            self.epoll = -1
            self.peers = {}

    def add(self, int fd, Peer peer not None):
        """Serve the socket `fd`, which must not be read by anybody else; False if the system refuses."""
        if self.epoll < 0 or fd < 0 or rt_watch(self.epoll, fd) != 0:
            return False
        self.peers[fd] = peer
        return True

    def remove(self, int fd):
        """Do not serve the socket `fd` any more."""
        if self.peers.pop(fd, None) is not None:
            rt_unwatch(self.epoll, fd)

    def drain(self):
        """Answer everybody who has sent something."""
        cdef int[RT_EVENTS_MAX] ready
        cdef int k, n, turn
        if len(self.peers) == 1:  # no need to ask who it is
            for fd, peer in self.peers.items():
                break
            self._serve(<Peer>peer, fd)
            return
        for turn in range(TURNS):
            n = rt_wait(self.epoll, ready)
            if n <= 0:
                break
            for k in range(n):
                peer = self.peers.get(ready[k])
                if peer is not None:
                    self._serve(<Peer>peer, ready[k])
            if n == 1:  # nobody else is waiting, and this one has only now got its answer
                break

    cdef void _discard(self, int fd) noexcept:
        """Read what nobody will answer: closing with it unread would reset the connection, replies and all."""
        cdef int k
        for k in range(DISCARD):
            if rt_receive(fd, self.piece, PIECE) <= 0:
                break

    cdef int _serve(self, Peer peer, int fd) except -1:
        """Answer one piece of one connection's stream."""
        cdef Py_ssize_t got = rt_receive(fd, self.piece, PIECE)
        cdef Py_ssize_t sent
        cdef Stream plain
        cdef bytes replies
        cdef bint left
        if got == AGAIN:
            return 0
        if got <= 0:  # the end, or an error: the transport will meet it too
            peer.leave(b"")
            return 0
        if peer.timed:
            peer.heard_s = self.time()
        core = peer.core
        try:
            if type(core) is Connection:  # the same, with no Python object in between
                plain = <Stream>core
                replies = plain.answer(self.piece, got)
                left = plain.pending > 0 or plain.closed or plain.last_error is not None
            else:
                replies = core.receive(PyBytes_FromStringAndSize(<const char*>self.piece, got))
                left = core.pending or core.closed or core.last_error is not None
            if PyBytes_GET_SIZE(replies) > 0:
                sent = rt_send(fd, PyBytes_AS_STRING(replies), PyBytes_GET_SIZE(replies))
                if sent < PyBytes_GET_SIZE(replies):
                    peer.leave(replies[sent:])
            if left or peer.watched:
                if core.closed:
                    self._discard(fd)
                peer.look()
        except Exception as error:
            peer.fail(error)
        return 0
