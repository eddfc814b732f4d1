/*
 * Descriptors, sockets between processes, and the system calls over them.
 * Socket pairs behave as Linux's do in what matters here: bounded, a reader
 * sees ECONNRESET once when the other side died with unread data, descriptors
 * travel with messages and die with them.
 */
#include <ev.h>

#define SIM_KERNEL
#include "common/mp.h"
#include "tests/sim/plan.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_sys.h"

#define CHANNEL_FD	3		/* of a worker */

static struct file *files;

bool
sometimes(unsigned int one_in)
{
	return (one_in != 0 && rng_one_in(&plan.sched, one_in));
}

/* A call may do less than it could. */
size_t
some_of(size_t n)
{
	if (n > 1 && sometimes(plan.partial))
		return (1 + rng_below(&plan.sched, n - 1));
	return (n);
}

static int
no(int error)
{
	errno = error;
	return (-1);
}

/* --- queues of bytes ----------------------------------------------------- */

void
bytes_put(struct bytes *b, const void *p, size_t n)
{
	size_t cap;

	if (b->head + b->len + n > b->cap) {
		if (b->len > 0)
			memmove(b->p, b->p + b->head, b->len);
		b->head = 0;
		for (cap = b->cap == 0 ? 256 : b->cap; cap < b->len + n; )
			cap *= 2;
		if (cap != b->cap)
			b->p = realloc(b->p, cap);
		b->cap = cap;
	}
	if (n > 0)
		memcpy(b->p + b->head + b->len, p, n);
	b->len += n;
}

void
bytes_skip(struct bytes *b, size_t n)
{
	b->head += n;
	b->len -= n;
	if (b->len == 0)
		b->head = 0;
}

size_t
bytes_get(struct bytes *b, void *to, size_t n)
{
	if (n > b->len)
		n = b->len;
	if (n > 0)
		memcpy(to, b->p + b->head, n);
	bytes_skip(b, n);
	return (n);
}

void
bytes_free(struct bytes *b)
{
	free(b->p);
	memset(b, 0, sizeof(*b));
}

/* --- open files ---------------------------------------------------------- */

struct file *
file_new(enum file_kind kind)
{
	struct file *f = calloc(1, sizeof(*f));

	f->kind = kind;
	f->refs = 1;
	f->last = &f->first;
	f->next = files;
	files = f;
	return (f);
}

void
file_ref(struct file *f)
{
	f->refs++;
}

void
file_changed(struct file *f)
{
	uint32_t waiters = f->waiters;
	unsigned int i;

	f->waiters = 0;
	for (; waiters != 0; waiters &= waiters - 1) {
		i = (unsigned int)__builtin_ctz(waiters);
		proc_wake(&procs[i], rng_range(&plan.sched, 1, plan.latency));
	}
}

static void
drop_messages(struct file *f)
{
	struct seq_msg *m;

	while ((m = f->first) != NULL) {
		f->first = m->next;
		if (m->passed != NULL)
			file_unref(m->passed);
		free(m);
	}
	f->last = &f->first;
	f->nmsgs = 0;
}

void
file_unref(struct file *f)
{
	if (--f->refs > 0)
		return;
	if (f->peer != NULL) {
		f->peer->peer = NULL;
		f->peer->reset = f->in.len > 0 || f->nmsgs > 0;
		file_changed(f->peer);
		f->peer = NULL;
	}
	drop_messages(f);
	bytes_free(&f->in);
	if (f->tcp != NULL) {
		f->tcp->file = NULL;
		tcp_last_close(f->tcp);
		f->tcp = NULL;
	}
	if (f->inode != NULL)
		inode_unref(f->inode);
	f->inode = NULL;
	if (listener == f)
		listener = NULL;
}

int
file_events(struct file *f)
{
	int e = 0;

	switch (f->kind) {
	case FILE_STREAM:
		if (f->in.len > 0 || f->peer == NULL)
			e |= EV_READ;
		if (f->peer == NULL || f->peer->in.len < f->peer->room)
			e |= EV_WRITE;
		return (e);
	case FILE_SEQ:
		if (f->nmsgs > 0 || f->peer == NULL)
			e |= EV_READ;
		if (f->peer == NULL || f->peer->nmsgs < f->peer->room)
			e |= EV_WRITE;
		return (e);
	case FILE_TCP:
		return (tcp_events(f->tcp));
	case FILE_LISTEN:
		return (actor_waiting() ? EV_READ : 0);
	case FILE_REG:
	case FILE_DIR:
	case FILE_NULL:
		return (EV_READ | EV_WRITE);
	case FILE_NOTIFY:
		return (EV_WRITE);
	case FILE_CTL:
		break;
	}
	return (0);
}

int
fd_install(struct proc *p, struct file *f, int least)
{
	int fd;

	for (fd = least; fd < FDS; fd++)
		if (p->fd[fd] == NULL) {
			p->fd[fd] = f;
			return (fd);
		}
	file_unref(f);
	return (no(EMFILE));
}

struct file *
fd_get(int fd)
{
	if (fd < 0 || fd >= FDS || current->fd[fd] == NULL) {
		errno = EBADF;
		return (NULL);
	}
	return (current->fd[fd]);
}

static void
fd_close(struct proc *p, int fd)
{
	struct file *f = p->fd[fd];

	p->fd[fd] = NULL;
	f->waiters &= ~(1U << p->slot);
	if (f->inode != NULL)
		inode_close(f->inode, p);
	file_unref(f);
}

void
fds_close(struct proc *p)
{
	int fd;

	for (fd = 0; fd < FDS; fd++)
		if (p->fd[fd] != NULL)
			fd_close(p, fd);
}

/* The world ends without anybody noticing. */
void
kernel_reset(void)
{
	struct seq_msg *m;
	struct file *f;

	listener = NULL;
	while ((f = files) != NULL) {
		files = f->next;
		while ((m = f->first) != NULL) {
			f->first = m->next;
			free(m);
		}
		bytes_free(&f->in);
		free(f);
	}
}

/* --- a worker's phase, from the messages on its channel ------------------ */

enum { CONN = 3, SINKCONN = 4, RUN = 6, DRAIN = 7, FINISH = 8, CUT = 14,
	OPENED = 20, READY = 21, FATAL = 28 };

static void
gives_up(const uint8_t *data, size_t len)
{
	struct slice text;
	struct mp c;

	mp_init(&c, slice_of(data + 6, len - 6));
	(void)mp_get_uint(&c, UINT32_MAX);
	text = mp_get_str(&c);
	fail("a worker gives up: %.*s", (int)text.len,
	    (const char *)text.data);
}

static void
note_phase(struct proc *p, int fd, const uint8_t *data, size_t len)
{
	enum phase was = p->phase;

	if (p->kind == PROC_SUPERVISOR && len >= 6) {
		if (data[5] == CUT && was == PHASE_OPENING)
			p->phase = PHASE_CUTTING;
		else if (data[5] == RUN && was == PHASE_CUTTING)
			p->phase = PHASE_OPENING;
	}
	if (p->kind != PROC_WORKER || fd != CHANNEL_FD || len < 6)
		return;
	switch (data[5]) {
	case CUT:
		p->phase = PHASE_CUTTING;
		break;
	case OPENED:
		p->phase = PHASE_OPENED;
		break;
	case RUN:
		p->phase = PHASE_REPLAYING;
		break;
	case READY:
		if (p->phase == PHASE_REPLAYING)
			p->phase = PHASE_RUNNING;
		break;
	case DRAIN:
		if (p->phase < PHASE_DRAINING)
			p->phase = PHASE_DRAINING;
		break;
	case FINISH:
		p->phase = PHASE_FINISHING;
		break;
	case FATAL:
		/* Nothing that was done to it is a reason. */
		if (plan.db_errors == 0 && plan.space_to == 0 &&
		    plan.sync_errors == 0 && !plan.blind && !actors_beyond())
			gives_up(data, len);
		break;
	}
	if (p->phase != was)
		trace("phase %s", phase_names[p->phase]);
}

/* A connection gets its number, and a worker. */
static void
note_given(const struct file *to, const struct file *passed,
    const uint8_t *data, size_t len)
{
	struct mp c;
	unsigned int i;

	if (passed->tcp == NULL || len < 6 || (data[5] != CONN &&
	    data[5] != SINKCONN))
		return;
	mp_init(&c, slice_of(data + 6, len - 6));
	passed->tcp->given_id = mp_get_uint(&c, UINT64_MAX);
	for (i = 0; i < PROCS; i++)
		if (procs[i].life == PROC_LIVE && procs[i].fd[CHANNEL_FD] ==
		    to)
			passed->tcp->worker = procs[i].number;
}

/* --- socket pairs -------------------------------------------------------- */

int
sim_socketpair(int domain, int type, int protocol, int *fd)
{
	enum file_kind kind = (type & 0xf) == SOCK_SEQPACKET ? FILE_SEQ :
	    FILE_STREAM;
	struct file *a, *b;

	(void)domain;
	(void)protocol;
	point(PT_socketpair, false);
	a = file_new(kind);
	b = file_new(kind);
	a->peer = b;
	b->peer = a;
	a->nonblock = b->nonblock = (type & SOCK_NONBLOCK) != 0;
	a->room = b->room = kind == FILE_SEQ ?
	    rng_range(&plan.sched, 2, 40) :
	    rng_range(&plan.sched, 300, plan.channel);
	fd[0] = fd_install(current, a, 0);
	fd[1] = fd_install(current, b, 0);
	point(PT_socketpair, true);
	return (0);
}

static ssize_t
stream_write(struct file *f, const void *p, size_t n)
{
	size_t room;

	if (f->peer == NULL)
		return (no(EPIPE));
	room = f->peer->in.len < f->peer->room ?
	    f->peer->room - f->peer->in.len : 0;
	if (room == 0)
		return (no(EAGAIN));
	n = some_of(n < room ? n : room);
	bytes_put(&f->peer->in, p, n);
	file_changed(f->peer);
	return ((ssize_t)n);
}

static ssize_t
stream_read(struct file *f, void *p, size_t n)
{
	if (f->in.len > 0) {
		n = bytes_get(&f->in, p, some_of(n < f->in.len ? n :
		    f->in.len));
		if (f->peer != NULL)
			file_changed(f->peer);
		return ((ssize_t)n);
	}
	if (f->reset) {
		f->reset = false;
		return (no(ECONNRESET));
	}
	return (f->peer == NULL ? 0 : no(EAGAIN));
}

static ssize_t
seq_write(struct file *f, const struct msghdr *h, int fd)
{
	const struct cmsghdr *c = CMSG_FIRSTHDR(h);
	struct file *passed = NULL;
	struct seq_msg *m;
	size_t len = h->msg_iov[0].iov_len;
	int pass;

	if (f->peer == NULL)
		return (no(EPIPE));
	if (f->peer->nmsgs >= f->peer->room)
		return (no(EAGAIN));
	if (c != NULL) {
		memcpy(&pass, CMSG_DATA(c), sizeof(pass));
		if ((passed = fd_get(pass)) == NULL)
			return (-1);
		if (sometimes(plan.toomany))
			return (no(ETOOMANYREFS));
		file_ref(passed);
	}
	m = malloc(sizeof(*m) + len);
	m->next = NULL;
	m->passed = passed;
	m->len = len;
	memcpy(m->data, h->msg_iov[0].iov_base, len);
	note_phase(current, fd, m->data, len);
	if (passed != NULL)
		note_given(f->peer, passed, m->data, len);
	*f->peer->last = m;
	f->peer->last = &m->next;
	f->peer->nmsgs++;
	file_changed(f->peer);
	return ((ssize_t)len);
}

static ssize_t
seq_read(struct file *f, struct msghdr *h, int fd)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(h);
	struct seq_msg *m = f->first;
	size_t len;
	int got;

	/* As Linux: the error first, then what had come before it. */
	if (f->reset) {
		f->reset = false;
		return (no(ECONNRESET));
	}
	if (m == NULL)
		return (f->peer == NULL ? 0 : no(EAGAIN));
	if ((f->first = m->next) == NULL)
		f->last = &f->first;
	f->nmsgs--;
	len = m->len < h->msg_iov[0].iov_len ? m->len : h->msg_iov[0].iov_len;
	memcpy(h->msg_iov[0].iov_base, m->data, len);
	if (m->passed != NULL && c != NULL &&
	    (got = fd_install(current, m->passed, 0)) != -1) {
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &got, sizeof(got));
		h->msg_controllen = CMSG_SPACE(sizeof(int));
	} else {
		if (m->passed != NULL && c == NULL)
			file_unref(m->passed);
		h->msg_controllen = 0;
	}
	note_phase(current, fd, m->data, len);
	free(m);
	if (f->peer != NULL)
		file_changed(f->peer);
	return ((ssize_t)len);
}

/* --- reading and writing ------------------------------------------------- */

ssize_t
sim_read(int fd, void *p, size_t n)
{
	struct file *f;
	ssize_t r = -1;
	int error;

	point(PT_read, false);
	if ((f = fd_get(fd)) == NULL)
		return (-1);
	if (sometimes(plan.eintr))
		return (no(EINTR));
	switch (f->kind) {
	case FILE_STREAM:
		r = stream_read(f, p, n);
		break;
	case FILE_TCP:
		r = tcp_read(f, p, n);
		break;
	case FILE_REG:
		r = reg_read(f, p, n, f->off);
		if (r > 0)
			f->off += (uint64_t)r;
		break;
	default:
		errno = EINVAL;
	}
	error = errno;
	trace("read fd=%d n=%zd%s%s", fd, r, r == -1 ? " " : "",
	    r == -1 ? strerrorname_np(error) : "");
	point(PT_read, true);
	errno = error;
	return (r);
}

ssize_t
sim_recv(int fd, void *p, size_t n, int flags)
{
	(void)flags;
	return (sim_read(fd, p, n));
}

ssize_t
sim_send(int fd, const void *p, size_t n, int flags)
{
	struct iovec iov = { (void *)(uintptr_t)p, n };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct file *f;
	ssize_t r = -1;
	int error;

	(void)flags;
	point(PT_send, false);
	if ((f = fd_get(fd)) == NULL)
		return (-1);
	if (f->kind != FILE_SEQ && sometimes(plan.eintr))
		return (no(EINTR));
	if (f->kind == FILE_STREAM)
		r = stream_write(f, p, n);
	else if (f->kind == FILE_SEQ)
		r = seq_write(f, &h, fd);
	else if (f->kind == FILE_TCP)
		r = tcp_write(f, p, n);
	else
		errno = ENOTSOCK;
	error = errno;
	trace("send fd=%d n=%zd of %zu%s%s", fd, r, n, r == -1 ? " " : "",
	    r == -1 ? strerrorname_np(error) : "");
	point(PT_send, true);
	errno = error;
	return (r);
}

static ssize_t
tcp_gather(struct file *f, const struct msghdr *h)
{
	ssize_t n, sum = 0;
	size_t i;

	for (i = 0; i < h->msg_iovlen; i++) {
		n = tcp_write(f, h->msg_iov[i].iov_base,
		    h->msg_iov[i].iov_len);
		if (n == -1)
			return (sum > 0 ? sum : -1);
		sum += n;
		if ((size_t)n < h->msg_iov[i].iov_len)
			break;
	}
	return (sum);
}

ssize_t
sim_sendmsg(int fd, const struct msghdr *h, int flags)
{
	const struct cmsghdr *c = CMSG_FIRSTHDR(h);
	struct file *f, *passed = NULL;
	ssize_t r = -1;
	int error, pass;

	(void)flags;
	point(PT_sendmsg, false);
	if ((f = fd_get(fd)) == NULL)
		return (-1);
	if (sometimes(plan.eintr))
		return (no(EINTR));
	if (f->kind == FILE_SEQ)
		r = seq_write(f, h, fd);
	else if (f->kind == FILE_TCP)
		r = tcp_gather(f, h);
	else if (f->kind == FILE_NOTIFY) {
		if (c != NULL) {
			memcpy(&pass, CMSG_DATA(c), sizeof(pass));
			passed = fd_get(pass);
		}
		notify_message(h->msg_iov[0].iov_base, h->msg_iov[0].iov_len,
		    passed);
		r = (ssize_t)h->msg_iov[0].iov_len;
	} else
		errno = ENOTSOCK;
	error = errno;
	trace("sendmsg fd=%d n=%zd%s%s", fd, r, r == -1 ? " " : "",
	    r == -1 ? strerrorname_np(error) : "");
	point(PT_sendmsg, true);
	errno = error;
	return (r);
}

ssize_t
sim_recvmsg(int fd, struct msghdr *h, int flags)
{
	struct file *f;
	ssize_t r;
	int error;

	point(PT_recvmsg, false);
	for (;;) {
		if ((f = fd_get(fd)) == NULL)
			return (-1);
		if (sometimes(plan.eintr))
			return (no(EINTR));
		r = seq_read(f, h, fd);
		if (r != -1 || errno != EAGAIN || f->nonblock ||
		    (flags & MSG_DONTWAIT) != 0)
			break;
		f->waiters |= 1U << current->slot;
		proc_block();
	}
	error = errno;
	if (r > 5)
		trace("recvmsg fd=%d n=%zd code=%u", fd, r,
		    ((uint8_t *)h->msg_iov[0].iov_base)[5]);
	point(PT_recvmsg, true);
	errno = error;
	return (r);
}

int
sim_poll(struct pollfd *p, nfds_t n, int ms)
{
	uint64_t until = now_ns + (uint64_t)ms * MS;
	struct file *f;
	int e;

	point(PT_poll, false);
	for (;;) {
		if (n > 0) {
			if ((f = fd_get(p->fd)) == NULL)
				return (-1);
			e = file_events(f);
			p->revents = (short)((e & EV_READ ? POLLIN : 0) |
			    (e & EV_WRITE ? POLLOUT : 0));
			p->revents &= p->events;
			if (f->kind == FILE_SEQ && f->peer == NULL)
				p->revents |= POLLHUP;
			if (p->revents != 0)
				return (1);
			f->waiters |= 1U << current->slot;
		}
		if (now_ns >= until)
			return (0);
		proc_wait(until - now_ns);
	}
}

/* --- descriptors --------------------------------------------------------- */

int
sim_close(int fd)
{
	point(PT_close, false);
	if (fd_get(fd) == NULL)
		return (-1);
	trace("close fd=%d", fd);
	fd_close(current, fd);
	point(PT_close, true);
	return (0);
}

int
sim_dup3(int fd, int to, int flags)
{
	struct file *f = fd_get(fd);

	(void)flags;			/* nothing is executed here */
	if (f == NULL)
		return (-1);
	file_ref(f);
	if (current->fd[to] != NULL)
		fd_close(current, to);
	current->fd[to] = f;
	return (to);
}

static int
lock_file(struct inode *i, int cmd, struct flock *l)
{
	struct proc *p;

	if (i == NULL)
		return (no(EINVAL));
	p = i->locked_by != 0 ? proc_find(i->locked_by) : NULL;
	if (p != NULL && p->life == PROC_LIVE && p != current) {
		l->l_pid = p->pid;
		return (cmd == F_GETLK ? 0 : no(EAGAIN));
	}
	if (cmd == F_SETLK)
		i->locked_by = current->pid;
	return (0);
}

int
sim_fcntl(int fd, int cmd, ...)
{
	struct file *f;
	struct flock *l;
	va_list ap;
	int v, r;

	if ((f = fd_get(fd)) == NULL)
		return (-1);
	switch (cmd) {
	case F_GETFL:
		return (f->nonblock ? O_RDWR | O_NONBLOCK : O_RDWR);
	case F_SETFL:
		va_start(ap, cmd);
		v = va_arg(ap, int);
		va_end(ap);
		f->nonblock = (v & O_NONBLOCK) != 0;
		return (0);
	case F_SETFD:
		return (0);
	case F_DUPFD_CLOEXEC:
		file_ref(f);
		return (fd_install(current, f, 0));
	case F_SETLK:
	case F_GETLK:
		va_start(ap, cmd);
		l = va_arg(ap, struct flock *);
		va_end(ap);
		point(PT_lock, false);
		r = lock_file(f->inode, cmd, l);
		point(PT_lock, true);
		if (r == -1)
			errno = EAGAIN;
		return (r);
	}
	return (no(EINVAL));
}

/* --- processes ----------------------------------------------------------- */

void
sim_exit(int code)
{
	trace("exit %d", code);
	proc_exit(W_EXITCODE(code, 0));
}

void
sim_abort(void)
{
	fail("a process aborted");
	proc_exit(W_EXITCODE(0, SIGABRT));
}

void
sim_assert_fail(const char *what, const char *file, unsigned int line,
    const char *function)
{
	fail("assertion failed: %s:%u: %s: %s", file, line, function, what);
	proc_exit(W_EXITCODE(0, SIGABRT));
}

int
sim_usleep(useconds_t us)
{
	point(PT_poll, false);
	proc_wait(us * US);
	return (0);
}

pid_t
sim_getpid(void)
{
	return (current->pid);
}

pid_t
sim_getppid(void)
{
	return (current->parent);
}

int
sim_kill(pid_t pid, int sig)
{
	struct proc *p = proc_find(pid < 0 ? -pid : pid);

	if (p == NULL)
		return (no(ESRCH));
	if (sig == SIGKILL)
		proc_kill(p, SIGKILL);
	return (0);
}

int
sim_prctl(int what, ...)
{
	if (what == PR_SET_PDEATHSIG)
		current->pdeathsig = true;
	return (0);
}

char *
sim_getenv(const char *name)
{
	size_t n = strlen(name), i;

	if (strcmp(name, "WALLAROO_PLANTED") == 0)
		return (plan.plant);
	for (i = 0; current->env != NULL && current->env[i] != NULL; i++)
		if (strncmp(current->env[i], name, n) == 0 &&
		    current->env[i][n] == '=')
			return ((char *)(uintptr_t)current->env[i] + n + 1);
	return (NULL);
}

int
sim_unsetenv(const char *name)
{
	(void)name;			/* who is spawned gets none of it */
	return (0);
}

int
sim_getrlimit(int what, struct rlimit *l)
{
	(void)what;
	l->rlim_cur = l->rlim_max = 100000;
	return (0);
}

int
sim_setrlimit(int what, const struct rlimit *l)
{
	(void)what;
	(void)l;
	return (0);
}

uid_t
sim_geteuid(void)
{
	return (1000);
}

int
sim_access(const char *path, int mode)
{
	(void)path;
	(void)mode;
	return (0);
}

sighandler_t
sim_signal(int sig, sighandler_t handler)
{
	(void)sig;
	(void)handler;
	return (SIG_DFL);
}

/* Names are looked up in threads; here all addresses are numbers. */
int
sim_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
    void *(*main)(void *), void *arg)
{
	(void)thread;
	(void)attr;
	(void)main;
	(void)arg;
	return (EAGAIN);
}

/* --- memory -------------------------------------------------------------- */

void *
sim_reallocarray(void *m, size_t n, size_t size)
{
	return (sim_realloc(m, n * size));
}

char *
sim_strndup(const char *s, size_t n)
{
	size_t len = strnlen(s, n);
	char *to = sim_malloc(len + 1);

	memcpy(to, s, len);
	to[len] = '\0';
	return (to);
}

char *
sim_strdup(const char *s)
{
	return (sim_strndup(s, strlen(s)));
}

int
sim_vasprintf(char **to, const char *fmt, va_list ap)
{
	va_list again;
	int n;

	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	*to = sim_malloc((size_t)n + 1);
	return (vsnprintf(*to, (size_t)n + 1, fmt, ap));
}

int
sim_isatty(int fd)
{
	(void)fd;
	return (0);
}
