/*
 * Time and randomness for the runtime itself.  The worker's executable
 * defines clock_gettime and getrandom for user code; what is here goes round
 * those definitions: libc's own clock (it needs no system call), the kernel's
 * own random numbers.
 */
#include <sys/syscall.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"

static int
clock_kernel(clockid_t id, struct timespec *ts)
{
	return ((int)syscall(SYS_clock_gettime, id, ts));
}

static uint64_t
clock_ns(clockid_t id)
{
	static int (*_Atomic libc_gettime)(clockid_t, struct timespec *);
	int (*gettime)(clockid_t, struct timespec *);
	struct timespec ts;
	void *sym;

	gettime = atomic_load_explicit(&libc_gettime, memory_order_relaxed);
	if (gettime == NULL) {
		/* The next object after the executable that has one: libc. */
		sym = dlsym(RTLD_NEXT, "clock_gettime");
		if (sym != NULL)
			memcpy(&gettime, &sym, sizeof(sym));
		else
			gettime = clock_kernel;
		atomic_store_explicit(&libc_gettime, gettime,
		    memory_order_relaxed);
	}
	if (gettime(id, &ts) == -1)
		abort();
	return ((uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec);
}

uint64_t
clock_wall_ns(void)
{
	return (clock_ns(CLOCK_REALTIME) + (uint64_t)fault_clock_ns());
}

uint64_t
clock_mono_ns(void)
{
	return (clock_ns(CLOCK_MONOTONIC));
}

void
clock_random(void *p, unsigned int n)
{
	uint8_t *at = p;
	long got;

	while (n > 0) {
		got = syscall(SYS_getrandom, at, (size_t)n, 0);
		if (got == -1 && errno == EINTR)
			continue;
		if (got <= 0)
			abort();
		at += got;
		n -= (unsigned int)got;
	}
}

static int
hex(char c)
{
	if (c >= '0' && c <= '9')
		return (c - '0');
	if (c >= 'a' && c <= 'f')
		return (c - 'a' + 10);
	return (-1);
}

int
clock_boot_id(uint8_t id[16], struct err *err)
{
	static const char path[] = "/proc/sys/kernel/random/boot_id";
	char text[64];
	ssize_t n;
	size_t digits = 0;
	int fd, v;

	memset(id, 0, 16);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd == -1 && errno == ENOENT)
		return (0);
	if (fd == -1)
		return (err_sys(err, ERR_SYSTEM, "cannot open %s", path));
	n = read(fd, text, sizeof(text));
	close(fd);
	if (n == -1)
		return (err_sys(err, ERR_SYSTEM, "cannot read %s", path));
	for (ssize_t i = 0; i < n && digits < 32; i++) {
		if ((v = hex(text[i])) == -1)
			continue;
		id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | v);
		digits++;
	}
	if (digits != 32)
		return (err_set(err, ERR_SYSTEM, "%s: no boot id", path));
	fault_boot(id);
	return (0);
}
