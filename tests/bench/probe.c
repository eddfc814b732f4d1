/*
 * Looks at the clock from inside a worker's user code: cc -shared, loaded by
 * ctypes.  The worker answers questions for the time from the record, so the
 * C library is asked behind its back.  What was seen is in a mapped file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "hist.h"

#define SPANS	1024		/* seconds of a run that are kept apart */

/* bench.py reads this. */
struct seen {
	struct hist	latency;	/* probe_begin to probe_end */
	struct hist	gaps;		/* probe_tick to probe_tick */
	uint64_t	longest[SPANS];	/* gap of each second */
	uint64_t	longest_cpu[SPANS];	/* of the thread's time */
};

int	probe_open(const char *);
void	probe_begin(void);
void	probe_end(void);
void	probe_tick(void);

static struct seen *seen;
static int	(*ask)(clockid_t, struct timespec *);
static uint64_t	 begun, first, last, last_cpu;

static uint64_t
now_ns(clockid_t clock)
{
	struct timespec	ts;

	ask(clock, &ts);
	return ((uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec);
}

int
probe_open(const char *path)
{
	void	*libc = dlopen("libc.so.6", RTLD_NOW), *p;
	int	 fd;

	if (libc == NULL ||
	    (*(void **)&ask = dlsym(libc, "clock_gettime")) == NULL)
		return (-1);
	if ((fd = open(path, O_RDWR)) == -1)
		return (-1);
	p = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
	    0);
	close(fd);
	if (p == MAP_FAILED)
		return (-1);
	seen = p;
	return (0);
}

void
probe_begin(void)
{
	begun = now_ns(CLOCK_MONOTONIC);
}

void
probe_end(void)
{
	hist_add(&seen->latency, now_ns(CLOCK_MONOTONIC) - begun);
}

void
probe_tick(void)
{
	uint64_t	now = now_ns(CLOCK_MONOTONIC);
	uint64_t	cpu = now_ns(CLOCK_THREAD_CPUTIME_ID);
	size_t		span;

	if (last == 0)
		first = now;
	else {
		hist_add(&seen->gaps, now - last);
		span = (size_t)((now - first) / 1000000000);
		if (span < SPANS && now - last > seen->longest[span])
			seen->longest[span] = now - last;
		if (span < SPANS && cpu - last_cpu > seen->longest_cpu[span])
			seen->longest_cpu[span] = cpu - last_cpu;
	}
	last = now;
	last_cpu = cpu;
}
