/*
 * For tests, by LD_PRELOAD: while the file named by FAULT_SWITCH exists,
 * writing, syncing and truncating files whose path contains FAULT_PATH fail
 * with the error number that the switch file holds; syncing alone if
 * FAULT_SYNC_ONLY is set.
 */
#define _GNU_SOURCE
#include <sys/types.h>
#include <sys/uio.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int
broken(int fd)
{
	const char *which = getenv("FAULT_PATH");
	const char *file = getenv("FAULT_SWITCH");
	char link[64], path[4096], number[16];
	ssize_t n;
	int f;

	if (which == NULL || file == NULL || access(file, F_OK) == -1)
		return (0);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if ((n = readlink(link, path, sizeof(path) - 1)) <= 0)
		return (0);
	path[n] = '\0';
	if (strstr(path, which) == NULL)
		return (0);
	if ((f = open(file, O_RDONLY | O_CLOEXEC)) == -1)
		return (0);
	n = read(f, number, sizeof(number) - 1);
	(void)close(f);
	if (n <= 0)
		return (0);
	number[n] = '\0';
	errno = atoi(number);
	return (1);
}

static int
unwritable(int fd)
{
	return (getenv("FAULT_SYNC_ONLY") == NULL && broken(fd));
}

#define REAL(name)							\
	static __typeof__(name) *real;					\
	if (real == NULL)						\
		real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t
pwrite64(int fd, const void *p, size_t n, off64_t at)
{
	REAL(pwrite64);
	return (unwritable(fd) ? -1 : real(fd, p, n, at));
}

ssize_t
pwrite(int fd, const void *p, size_t n, off_t at)
{
	REAL(pwrite);
	return (unwritable(fd) ? -1 : real(fd, p, n, at));
}

ssize_t
write(int fd, const void *p, size_t n)
{
	REAL(write);
	return (unwritable(fd) ? -1 : real(fd, p, n));
}

ssize_t
writev(int fd, const struct iovec *v, int n)
{
	REAL(writev);
	return (unwritable(fd) ? -1 : real(fd, v, n));
}

int
fsync(int fd)
{
	REAL(fsync);
	return (broken(fd) ? -1 : real(fd));
}

int
fdatasync(int fd)
{
	REAL(fdatasync);
	return (broken(fd) ? -1 : real(fd));
}

int
ftruncate64(int fd, off64_t len)
{
	REAL(ftruncate64);
	return (unwritable(fd) ? -1 : real(fd, len));
}
