/*
 * See fault.h.  Faults of system calls: a plan that fires at NAME_before
 * lasts until the next fault point of that thread, and the first call in
 * between that it fits is made to fail; where there is none it waits for the
 * next passage.  The calls are defined here, in the executable, so that
 * libsqlite3's come here before libc's, too.
 */
#include "common/fault.h"
#include "common/msg.h"

#ifdef WALLAROO_FAULTS
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CALL_KINDS	(FAULT_BIT(tear) | FAULT_BIT(twice) |		\
	FAULT_BIT(shortly) | FAULT_BIT(eintr) | FAULT_ANY_DISK)
#define OOM_CHUNK	(16 << 20)

static struct fault_page *page;
static uint32_t worker = FAULT_ANY;
static _Atomic int64_t jump_ns;
static __thread struct fault_plan *call_plan;	/* for the next call */

/* --- the page ---------------------------------------------------------- */

/* Before main: a page that cannot be used must not look like no fault. */
static void __attribute__((constructor))
fault_open(void)
{
	const char *path = getenv("WALLAROO_FAULTS");
	struct stat st;
	int fd;

	if (path == NULL || path[0] == '\0')
		return;
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd == -1 || fstat(fd, &st) == -1 ||
	    (size_t)st.st_size < sizeof(*page) ||
	    (page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE,
	    MAP_SHARED, fd, 0)) == MAP_FAILED ||
	    page->magic != FAULT_MAGIC || page->points != FAULT_POINTS ||
	    page->kinds != FAULT_KINDS_END) {
		fprintf(stderr, "WALLAROO_FAULTS=%s: not the fault page of "
		    "this program\n", path);
		abort();
	}
	close(fd);
}

void
fault_worker(uint32_t n)
{
	worker = n;
}

int64_t
fault_clock_ns(void)
{
	return (atomic_load_explicit(&jump_ns, memory_order_relaxed));
}

void
fault_boot(uint8_t id[16])
{
	uint64_t boots = page == NULL ? 0 : atomic_load(&page->boots), i;

	for (i = 0; i < sizeof(boots); i++)
		id[i] ^= (uint8_t)(boots >> 8 * i);
}

/* --- harm -------------------------------------------------------------- */

#ifdef WALLAROO_COVERAGE
/* A process that ends at once would not say which lines it has seen. */
void	__gcov_dump(void);

void
_exit(int code)
{
	__gcov_dump();
	for (;;)
		(void)syscall(SYS_exit_group, code);
}
#else
#define __gcov_dump()	((void)0)
#endif

static void __attribute__((noreturn))
kill_self(void)
{
	__gcov_dump();
	for (;;)
		(void)kill(getpid(), SIGKILL);
}

/* Where memory is limited the kernel kills before the end is reached. */
static void __attribute__((noreturn))
take_memory(int64_t mib)
{
	char *p;
	int64_t taken;

	for (taken = 0; taken < mib << 20; taken += OOM_CHUNK) {
		if ((p = malloc(OOM_CHUNK)) == NULL)
			break;
		memset(p, 1, OOM_CHUNK);
	}
	kill_self();
}

static void
act(struct fault_plan *p)
{
	static const struct timespec while_ = { 0, 10000000 };

	switch ((enum fault_kind)p->kind) {
	case FAULT_KIND_kill:
		kill_self();
	case FAULT_KIND_segv:
		(void)signal(SIGSEGV, SIG_DFL);
		(void)raise(SIGSEGV);
		break;
	case FAULT_KIND_exit1:
		_exit(1);
	case FAULT_KIND_exit0:
		_exit(0);
	case FAULT_KIND_oom:
		take_memory(p->arg);
	case FAULT_KIND_hang:
		for (;;)	/* whose processor others may use */
			(void)nanosleep(&while_, NULL);
	case FAULT_KIND_reset:		/* whoever tests does it */
	case FAULT_KIND_silent:
	case FAULT_KIND_slow:
	case FAULT_KIND_stop:
		(void)kill(getpid(), SIGSTOP);
		break;
	case FAULT_KIND_parent:
		(void)kill(getppid(), SIGKILL);
		break;
	case FAULT_KIND_both:
		(void)kill(getppid(), SIGKILL);
		kill_self();
	case FAULT_KIND_freeze:
		(void)kill(getppid(), SIGSTOP);
		(void)kill(getpid(), SIGSTOP);
		break;
	case FAULT_KIND_clock:
		atomic_fetch_add(&jump_ns, p->arg * 1000000000);
		break;
	default:
		call_plan = p;
		return;
	}
}

static bool
is_due(struct fault_plan *p, enum fault_point point)
{
	if (atomic_load_explicit(&p->state, memory_order_acquire) !=
	    FAULT_ARMED || p->point != (uint32_t)point ||
	    (p->worker != FAULT_ANY && p->worker != worker))
		return (false);
	if (p->after < FAULT_PLANS &&
	    atomic_load(&page->plan[p->after].state) < FAULT_FIRED)
		return (false);
	return (atomic_fetch_sub(&p->count, 1) == 1);
}

/* Nothing that it fits was called: the next passage may do it. */
static void
arm_again(struct fault_plan *p)
{
	atomic_store(&p->count, 1);
	atomic_store(&p->state, FAULT_ARMED);
}

void
fault_point(enum fault_point point)
{
	struct fault_plan *p = call_plan;
	int i, error = errno;

	call_plan = NULL;
	if (p != NULL)
		arm_again(p);
	if (page == NULL)
		return;
	atomic_fetch_add_explicit(&page->passed[point], 1,
	    memory_order_relaxed);
	for (i = 0; i < FAULT_PLANS; i++) {
		p = &page->plan[i];
		if (!is_due(p, point))
			continue;
		atomic_store(&p->pid, (uint32_t)getpid());
		atomic_store(&p->state, (1U << p->kind & CALL_KINDS) != 0 ?
		    FAULT_FIRED : FAULT_ACTED);
		act(p);
	}
	errno = error;
}

/* --- the list ---------------------------------------------------------- */

static void
print_kinds(unsigned int kinds)
{
#define PRINT_KIND(name, text)						\
	if ((kinds & FAULT_BIT(name)) != 0)				\
		printf(",%s", #name);
	printf("any");
	FAULT_KINDS(PRINT_KIND)
#undef PRINT_KIND
}

static void
print_point(const char *name, const char *when, const char *process,
    const char *needs, unsigned int kinds, const char *text)
{
	printf("%s_%s\t%s\t%s\t", name, when, process, needs);
	print_kinds(strcmp(when, "before") == 0 ? kinds :
	    kinds & FAULT_ANY_NET);
	printf("\t%s %s\n", when, text);
}

bool
fault_listed(int argc, char *const argv[])
{
#define PRINT_POINT(name, process, needs, kinds, text)			\
	print_point(#name, "before", #process, #needs, kinds, text);	\
	print_point(#name, "after", #process, #needs, kinds, text);
#define PRINT_KIND(name, text)	printf("kind\t%s\t%s\n", #name, text);
	if (argc != 2 || strcmp(argv[1], "--list-fault-points") != 0)
		return (false);
	FAULT_KINDS(PRINT_KIND)
	FAULT_TABLE(PRINT_POINT)
	return (true);
#undef PRINT_POINT
#undef PRINT_KIND
}

/* --- system calls ------------------------------------------------------ */

/* Weak, because a test program may have its own. */
#define CALL	__attribute__((weak))

/* libc's function of the same name; there is always one. */
#define REAL(f)								\
	static __typeof__(f) *real_##f;					\
	if (real_##f == NULL)						\
		*(void **)&real_##f = dlsym(RTLD_NEXT, #f)

/* Is this call to suffer one of these kinds?  Then it is the one. */
static enum fault_kind
suffers(unsigned int kinds)
{
	struct fault_plan *p = call_plan;

	if (p == NULL || (1U << p->kind & kinds) == 0)
		return (FAULT_KIND_none);
	call_plan = NULL;
	atomic_store(&p->state, FAULT_ACTED);
	return ((enum fault_kind)p->kind);
}

static int
failed(enum fault_kind kind)
{
	switch (kind) {
	case FAULT_KIND_eintr:
		return (errno = EINTR);
	case FAULT_KIND_enospc:
		return (errno = ENOSPC);
	case FAULT_KIND_eio:
	case FAULT_KIND_efsync:
		return (errno = EIO);
	default:
		return (0);
	}
}

/* A short call moves one byte. */
static size_t
short_of(enum fault_kind k, size_t n)
{
	return (k == FAULT_KIND_shortly && n > 1 ? 1 : n);
}

#define ON_READ		(FAULT_ANY_READ | FAULT_BIT(eio))
#define ON_WRITE	(ON_READ | FAULT_BIT(enospc))
#define ON_SEND		(FAULT_ANY_READ | FAULT_BIT(tear) | FAULT_BIT(twice))

ssize_t CALL
read(int fd, void *p, size_t n)
{
	enum fault_kind k = suffers(ON_READ);

	REAL(read);
	return (failed(k) != 0 ? -1 : real_read(fd, p,
	    short_of(k, n)));
}

ssize_t CALL
pread(int fd, void *p, size_t n, off_t off)
{
	enum fault_kind k = suffers(ON_READ);

	REAL(pread);
	return (failed(k) != 0 ? -1 : real_pread(fd, p,
	    short_of(k, n), off));
}

ssize_t CALL
pread64(int fd, void *p, size_t n, off_t off)
{
	enum fault_kind k = suffers(ON_READ);

	REAL(pread64);
	return (failed(k) != 0 ? -1 : real_pread64(fd, p,
	    short_of(k, n), off));
}

ssize_t CALL
write(int fd, const void *p, size_t n)
{
	enum fault_kind k = suffers(ON_WRITE);

	REAL(write);
	return (failed(k) != 0 ? -1 : real_write(fd, p,
	    short_of(k, n)));
}

ssize_t CALL
pwrite(int fd, const void *p, size_t n, off_t off)
{
	enum fault_kind k = suffers(ON_WRITE);

	REAL(pwrite);
	return (failed(k) != 0 ? -1 : real_pwrite(fd, p,
	    short_of(k, n), off));
}

ssize_t CALL
splice(int in, off64_t *in_off, int out, off64_t *out_off, size_t n,
    unsigned int flags)
{
	enum fault_kind k = suffers(ON_WRITE);

	REAL(splice);
	return (failed(k) != 0 ? -1 : real_splice(in, in_off, out, out_off,
	    short_of(k, n), flags));
}

ssize_t CALL
recv(int fd, void *p, size_t n, int flags)
{
	enum fault_kind k = suffers(FAULT_ANY_READ);

	REAL(recv);
	return (failed(k) != 0 ? -1 : real_recv(fd, p,
	    short_of(k, n), flags));
}

int CALL
ftruncate(int fd, off_t size)
{
	enum fault_kind k = suffers(FAULT_BIT(eio));

	REAL(ftruncate);
	return (failed(k) != 0 ? -1 : real_ftruncate(fd, size));
}

ssize_t CALL
pwrite64(int fd, const void *p, size_t n, off_t off)
{
	enum fault_kind k = suffers(ON_WRITE);

	REAL(pwrite64);
	return (failed(k) != 0 ? -1 : real_pwrite64(fd, p,
	    short_of(k, n), off));
}

/* Of several pieces only the first, and of that one byte. */
ssize_t CALL
writev(int fd, const struct iovec *iov, int n)
{
	enum fault_kind k = suffers(ON_WRITE);
	struct iovec one;

	REAL(writev);
	if (failed(k) != 0)
		return (-1);
	if (k != FAULT_KIND_shortly || n == 0)
		return (real_writev(fd, iov, n));
	one.iov_base = iov[0].iov_base;
	one.iov_len = short_of(k, iov[0].iov_len);
	return (real_writev(fd, &one, 1));
}

ssize_t CALL
sendmsg(int fd, const struct msghdr *m, int flags)
{
	enum fault_kind k = m->msg_control != NULL || m->msg_iovlen == 0 ?
	    FAULT_KIND_none : suffers(FAULT_ANY_READ);
	struct msghdr h = *m;
	struct iovec one;

	REAL(sendmsg);
	if (failed(k) != 0)
		return (-1);
	if (k == FAULT_KIND_shortly) {
		one.iov_base = m->msg_iov[0].iov_base;
		one.iov_len = short_of(k, m->msg_iov[0].iov_len);
		h.msg_iov = &one;
		h.msg_iovlen = 1;
	}
	return (real_sendmsg(fd, &h, flags));
}

/* The whole data messages at the beginning of what is sent. */
static size_t
data_messages(const uint8_t *p, size_t n, size_t *from)
{
	size_t at = 0, len;

	*from = 0;
	while (n - at > 6) {
		len = (size_t)p[at] << 24 | (size_t)p[at + 1] << 16 |
		    (size_t)p[at + 2] << 8 | p[at + 3];
		if (len > n - at - 4 || len < 2 || (p[at + 4] & 0xf0) != 0x90)
			break;
		if (p[at + 5] != MSG_data) {
			if (at > *from)
				break;
			*from = at + 4 + len;
		}
		at += 4 + len;
	}
	return (at > *from ? at - *from : 0);
}

ssize_t CALL
send(int fd, const void *p, size_t n, int flags)
{
	struct fault_plan *plan = call_plan;
	enum fault_kind k = suffers(ON_SEND);
	size_t from, len;
	ssize_t r;

	REAL(send);
	if (failed(k) != 0)
		return (-1);
	if (k == FAULT_KIND_tear) {
		(void)real_send(fd, p, (n + 1) / 2, flags);
		kill_self();
	}
	r = real_send(fd, p, short_of(k, n), flags);
	if (k != FAULT_KIND_twice)
		return (r);
	len = data_messages(p, n, &from);
	if (r != (ssize_t)n || len == 0)
		arm_again(plan);	/* nothing whole was sent */
	else if (real_send(fd, (const uint8_t *)p + from, len, flags) !=
	    (ssize_t)len)
		kill_self();		/* a torn one */
	return (r);
}

int CALL
posix_fallocate(int fd, off_t off, off_t len)
{
	enum fault_kind k = suffers(FAULT_BIT(enospc));

	REAL(posix_fallocate);
	return (k != FAULT_KIND_none ? failed(k) :
	    real_posix_fallocate(fd, off, len));
}

int CALL
fsync(int fd)
{
	enum fault_kind k = suffers(FAULT_BIT(efsync));

	REAL(fsync);
	return (failed(k) != 0 ? -1 : real_fsync(fd));
}

int CALL
fdatasync(int fd)
{
	enum fault_kind k = suffers(FAULT_BIT(efsync));

	REAL(fdatasync);
	return (failed(k) != 0 ? -1 : real_fdatasync(fd));
}
#endif
