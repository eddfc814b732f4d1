/* See mapped.h. */
#include <sys/mman.h>
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/mem.h"
#include "worker/mapped.h"
#include "worker/planted.h"

#define COPY_BYTES	(1024 * 1024)

/* What is mapped, for the handler of SIGBUS.  Changed only by the one thread
 * that touches these pages. */
static struct area {
	const uint8_t	*addr;
	size_t		 len;
	int		 fd;
	uint64_t	 off;
} *areas;
static size_t nareas, areas_cap;
static struct sigaction before;
static void (*say_last)(const char *, size_t);

int
mapped_create(const char *path, uint64_t size, int *fd, struct err *err)
{
	if (path == NULL)
		*fd = memfd_create("wallaroo", MFD_CLOEXEC);
	else
		*fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (*fd == -1)
		return (err_sys(err, ERR_STORAGE, "cannot create %s",
		    path == NULL ? "memory file" : path));
	if (mapped_allocate(*fd, path == NULL ? "memory file" : path, 0, size,
	    err) == -1) {
		close(*fd);
		if (path != NULL)
			unlink(path);
		return (-1);
	}
	return (0);
}

int
mapped_allocate(int fd, const char *what, uint64_t off, uint64_t len,
    struct err *err)
{
	int r;

	do
		r = posix_fallocate(fd, (off_t)off, (off_t)len);
	while (r == EINTR);
	if (r != 0) {
		errno = r;
		return (err_sys(err, ERR_STORAGE,
		    "cannot allocate %llu bytes in %s",
		    (unsigned long long)len, what));
	}
	return (0);
}

void *
mapped_at(void *addr, int fd, const char *what, uint64_t off, size_t len,
    struct err *err)
{
	void *p;

	p = mmap(addr, len, PROT_READ | PROT_WRITE,
	    MAP_SHARED | (addr != NULL ? MAP_FIXED : 0), fd, (off_t)off);
	if (p == MAP_FAILED) {
		(void)err_sys(err, ERR_SYSTEM, "cannot map %zu bytes of %s",
		    len, what);
		return (NULL);
	}
	(void)madvise(p, len, MADV_DONTFORK);
	if (nareas == areas_cap) {
		areas_cap = areas_cap == 0 ? 64 : areas_cap * 2;
		areas = xreallocarray(areas, areas_cap, sizeof(*areas));
	}
	areas[nareas++] = (struct area){ p, len, fd, off };
	return (p);
}

/* [addr, addr+len) may hold several areas. */
void
mapped_unmap(void *addr, size_t len)
{
	const uint8_t *p = addr;
	size_t i;

	for (i = nareas; i-- > 0; )
		if (areas[i].addr >= p && areas[i].addr < p + len)
			areas[i] = areas[--nareas];
	(void)munmap(addr, len);
}

/* --- files on a disk ----------------------------------------------------- */

int
mapped_sync(int fd, const char *path, struct err *err)
{
	static const uint64_t yes = 1;

	if (fdatasync(fd) == 0)
		return (0);
	(void)err_sys(err, ERR_STORAGE, "cannot sync %s", path);
	if (pwrite(fd, &yes, sizeof(yes), MAPPED_RETIRED) != sizeof(yes))
		err_wrap(err, "and cannot retire it");
	return (-1);
}

int
mapped_sync_entry(const char *path, struct err *err)
{
	char *dir, *slash;
	int fd, r = 0;

	if (planted("STABLE14"))
		return (0);
	dir = xstrdup(path);
	slash = strrchr(dir, '/');
	if (slash != NULL)
		slash[slash == dir] = '\0';
	FAULT_POINT(entry_sync_before);
	fd = open(slash == NULL ? "." : dir, O_RDONLY | O_DIRECTORY |
	    O_CLOEXEC);
	if (fd == -1 || fsync(fd) == -1)
		r = err_sys(err, ERR_STORAGE, "cannot sync the directory of "
		    "%s", path);
	FAULT_POINT(entry_sync_after);
	if (fd != -1)
		close(fd);
	free(dir);
	return (r);
}

int
mapped_zero(int fd, const char *path, uint64_t off, uint64_t len,
    struct err *err)
{
	uint8_t *zeros = xcalloc(1, COPY_BYTES);
	ssize_t n;
	int r = 0;

	while (len > 0 && r == 0) {
		n = pwrite(fd, zeros, len < COPY_BYTES ? len : COPY_BYTES,
		    (off_t)off);
		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0) {
			if (n == 0)
				errno = ENOSPC;
			r = err_sys(err, ERR_STORAGE, "cannot clear %s",
			    path);
			break;
		}
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	free(zeros);
	return (r);
}

/* All bytes of one file to another, but for the word that retires it. */
static int
copy(int from, int to)
{
	static const uint64_t no = 0;
	uint8_t *b = xmalloc(COPY_BYTES);
	off_t at = 0;
	ssize_t n = 0;
	int r = -1;

	while ((n = pread(from, b, COPY_BYTES, at)) > 0) {
		if (pwrite(to, b, (size_t)n, at) != n)
			goto out;
		at += n;
	}
	if (n == 0 && pwrite(to, &no, sizeof(no), MAPPED_RETIRED) ==
	    sizeof(no) && fdatasync(to) == 0)
		r = 0;
out:
	free(b);
	return (r);
}

int
mapped_renew(const char *path, struct err *err)
{
	uint64_t retired = 0;
	char *other;
	int from, to = -1, r = -1;

	if ((from = open(path, O_RDONLY | O_CLOEXEC)) == -1)
		return (errno == ENOENT ? 0 : err_sys(err, ERR_STORAGE,
		    "cannot open %s", path));
	if (pread(from, &retired, sizeof(retired), MAPPED_RETIRED) !=
	    sizeof(retired) || retired == 0) {
		close(from);
		return (0);
	}
	other = xasprintf("%s.new", path);
	FAULT_POINT(file_renew_before);
	to = open(other, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (to != -1)
		r = copy(from, to);
	FAULT_POINT(file_renew_after);
	FAULT_POINT(renew_swap_before);
	if (r == 0 && rename(other, path) == -1)
		r = -1;
	FAULT_POINT(renew_swap_after);
	if (r == -1)
		(void)err_sys(err, ERR_STORAGE, "%s could not be synced "
		    "once and cannot be copied to a new file", path);
	else if ((r = mapped_sync_entry(path, err)) == 0)
		r = 1;
	close(from);
	if (to != -1)
		close(to);
	free(other);
	return (r);
}

/* --- SIGBUS -------------------------------------------------------------- */

static size_t
add_text(char *to, size_t at, size_t cap, const char *text)
{
	while (*text != '\0' && at < cap)
		to[at++] = *text++;
	return (at);
}

static size_t
add_number(char *to, size_t at, size_t cap, uint64_t v)
{
	char digits[24];
	size_t n = sizeof(digits) - 1;

	digits[n] = '\0';
	do
		digits[--n] = (char)('0' + v % 10);
	while ((v /= 10) > 0);
	return (add_text(to, at, cap, digits + n));
}

static const struct area *
find_area(const void *addr)
{
	const uint8_t *p = addr;
	size_t i;

	for (i = 0; i < nareas; i++)
		if (p >= areas[i].addr && p < areas[i].addr + areas[i].len)
			return (&areas[i]);
	return (NULL);
}

/* Nothing but system calls that are safe in a handler. */
static void
on_sigbus(int sig, siginfo_t *info, void *context)
{
	const struct area *a = info->si_code > 0 ?
	    find_area(info->si_addr) : NULL;
	char text[512], link[64], path[256];
	ssize_t n;
	size_t len;

	(void)context;
	if (a == NULL) {		/* whose it is shall have it */
		(void)sigaction(SIGBUS, &before, NULL);
		if (info->si_code <= 0)
			(void)raise(sig);
		return;
	}
	len = add_text(link, 0, sizeof(link) - 1, "/proc/self/fd/");
	link[add_number(link, len, sizeof(link) - 1, (uint64_t)a->fd)] =
	    '\0';
	len = add_text(text, 0, sizeof(text), "storage failure: a page of a "
	    "mapped file cannot be read or written file=");
	n = readlink(link, path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = '\0';
	len = add_text(text, len, sizeof(text), path);
	len = add_text(text, len, sizeof(text), " offset=");
	len = add_number(text, len, sizeof(text), a->off +
	    (uint64_t)((const uint8_t *)info->si_addr - a->addr));
	say_last(text, len);
	_exit(111);
}

void
mapped_guard(void (*say)(const char *, size_t))
{
	struct sigaction act = { .sa_flags = SA_SIGINFO | SA_ONSTACK };

	say_last = say;
	act.sa_sigaction = on_sigbus;
	(void)sigemptyset(&act.sa_mask);
	(void)sigaction(SIGBUS, &act, &before);
}
