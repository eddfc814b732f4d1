/*
 * Looks at the clock from inside a worker's user code: cc -shared, loaded by
 * ctypes.  The worker answers questions for the time from the record, so the
 * C library is asked behind its back.  What was seen is in a mapped file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "hist.h"

#define SPANS	1024		/* seconds of a run that are kept apart */
#define LONG_NS	1000000		/* a gap that is looked at */
#define OFTEN	64		/* ticks between two looks at the scheduler */

/* bench.py reads this. */
struct seen {
	struct hist	latency;	/* probe_begin to probe_end */
	struct hist	gaps;		/* probe_tick to probe_tick */
	uint64_t	longest[SPANS];	/* gap of each second */
	uint64_t	longest_own[SPANS];	/* less what others took */
};

int	probe_open(const char *);
void	probe_begin(void);
void	probe_end(void);
void	probe_tick(void);

static struct seen *seen;
static int	(*ask)(clockid_t, struct timespec *);
static uint64_t	 begun, first, last, ticks, waited;
static int	 schedstat = -1;

static uint64_t
now_ns(clockid_t clock)
{
	struct timespec	ts;

	ask(clock, &ts);
	return ((uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec);
}

/* How long this thread has been ready to run while others ran. */
static uint64_t
waited_ns(void)
{
	char	 buf[64], *p;
	ssize_t	 n;

	if (schedstat == -1 ||
	    (n = pread(schedstat, buf, sizeof(buf) - 1, 0)) <= 0)
		return (0);
	buf[n] = '\0';
	return ((p = strchr(buf, ' ')) != NULL ? strtoull(p, NULL, 10) : 0);
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

static void
add_gap(uint64_t now)
{
	size_t		span = (size_t)((now - first) / 1000000000);
	uint64_t	gap = now - last, others = 0, before = waited;

	hist_add(&seen->gaps, gap);
	if (gap >= LONG_NS || ticks % OFTEN == 0) {
		waited = waited_ns();
		others = waited - before;
	}
	if (span >= SPANS)
		return;
	if (gap > seen->longest[span])
		seen->longest[span] = gap;
	if (gap > others && gap - others > seen->longest_own[span])
		seen->longest_own[span] = gap - others;
}

void
probe_tick(void)
{
	uint64_t	now = now_ns(CLOCK_MONOTONIC);

	if (ticks++ == 0) {
		first = now;
		schedstat = open("/proc/thread-self/schedstat", O_RDONLY);
		waited = waited_ns();
	} else
		add_gap(now);
	last = now;
}
