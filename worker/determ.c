/*
 * See determ.h.  This object is linked into the executable itself, which
 * exports its symbols, so that libpython's calls come here before libc.
 *
 * Inside user code a clock starts at the origin's time and moves by one
 * microsecond per reading, and by as much as a wait was asked to last: so
 * that loops until a deadline end, after the same number of readings in every
 * replay.  A wait until a point of that clock is made one of the same length
 * on the real clock.
 */
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/part.h"
#include "worker/determ.h"

#define READING_NS	1000

__thread struct determ determ;

/* libc's function of the same name; there is always one. */
static void *
real(const char *name)
{
	void *p = dlsym(RTLD_NEXT, name);

	if (p == NULL)
		abort();
	return (p);
}
/* REAL(f)(...): the type is f's own. */
#define REAL(f)								\
	static __typeof__(f) *real_##f;					\
	if (real_##f == NULL)						\
		*(void **)&real_##f = real(#f)

/* Does user code of this thread run, and is no debugger at work? */
static bool
inside(void)
{
	if (determ.of == NULL)
		return (false);
	if (determ.begun != determ.serial) {
		determ.begun = determ.serial;
		determ.time_ns = determ.of->time_ns;
		determ.drawn = 0;
		determ.paused = false;
	}
	return (!determ.paused);
}

void
determ_pause(bool pause)
{
	(void)inside();
	determ.paused = pause;
}

uint64_t
determ_serial(void)
{
	return (inside() ? determ.serial : 0);
}

uint64_t
determ_seed(void)
{
	uint64_t id = determ.of == NULL ? 0 : determ.of->id;

	return (determ_mix(id + UINT64_C(0x9e3779b97f4a7c15) *
	    (uint64_t)(determ.fn + 2)));
}

/* --- clocks ------------------------------------------------------------ */

static void
set_timespec(struct timespec *ts, uint64_t ns)
{
	ts->tv_sec = (time_t)(ns / 1000000000);
	ts->tv_nsec = (long)(ns % 1000000000);
}

static uint64_t
from_timespec(const struct timespec *ts)
{
	return ((uint64_t)ts->tv_sec * 1000000000 + (uint64_t)ts->tv_nsec);
}

int
clock_gettime(clockid_t clock, struct timespec *ts)
{
	REAL(clock_gettime);

	if (!inside() || clock == CLOCK_THREAD_CPUTIME_ID ||
	    clock == CLOCK_PROCESS_CPUTIME_ID)
		return (real_clock_gettime(clock, ts));
	determ.time_ns += READING_NS;
	set_timespec(ts, determ.time_ns);
	return (0);
}

int
gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
	struct timespec ts;

	(void)tz;
	if (clock_gettime(CLOCK_REALTIME, &ts) == -1)
		return (-1);
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return (0);
}

time_t
time(time_t *t)
{
	struct timespec ts;

	if (clock_gettime(CLOCK_REALTIME, &ts) == -1)
		return ((time_t)-1);
	if (t != NULL)
		*t = ts.tv_sec;
	return (ts.tv_sec);
}

/* --- waits until a point in time --------------------------------------- */

/*
 * The real time that is as far away as `until` is on the user's clock, which
 * moves there: by the caller's leave, since the wait may end earlier.
 */
static void
translate(clockid_t clock, const struct timespec *until, struct timespec *ts)
{
	uint64_t to = from_timespec(until);
	uint64_t left = to > determ.time_ns ? to - determ.time_ns : 0;
	REAL(clock_gettime);

	(void)real_clock_gettime(clock, ts);
	set_timespec(ts, from_timespec(ts) + left);
}

static void
moved_to(const struct timespec *until)
{
	if (from_timespec(until) > determ.time_ns)
		determ.time_ns = from_timespec(until);
}

int
clock_nanosleep(clockid_t clock, int flags, const struct timespec *want,
    struct timespec *rest)
{
	struct timespec ts;
	int r;
	REAL(clock_nanosleep);

	if (!inside())
		return (real_clock_nanosleep(clock, flags, want, rest));
	if (!(flags & TIMER_ABSTIME)) {
		r = real_clock_nanosleep(clock, flags, want, rest);
		determ.time_ns += from_timespec(want);
		return (r);
	}
	translate(clock, want, &ts);
	r = real_clock_nanosleep(clock, flags, &ts, rest);
	if (r == 0)
		moved_to(want);
	return (r);
}

int
sem_clockwait(sem_t *restrict sem, clockid_t clock,
    const struct timespec *restrict until)
{
	struct timespec ts;
	int r;
	REAL(sem_clockwait);

	if (!inside())
		return (real_sem_clockwait(sem, clock, until));
	translate(clock, until, &ts);
	r = real_sem_clockwait(sem, clock, &ts);
	if (r == -1 && errno == ETIMEDOUT)
		moved_to(until);
	return (r);
}

int
sem_timedwait(sem_t *restrict sem, const struct timespec *restrict until)
{
	struct timespec ts;
	int r;
	REAL(sem_timedwait);

	if (!inside())
		return (real_sem_timedwait(sem, until));
	translate(CLOCK_REALTIME, until, &ts);
	r = real_sem_timedwait(sem, &ts);
	if (r == -1 && errno == ETIMEDOUT)
		moved_to(until);
	return (r);
}

int
pthread_cond_timedwait(pthread_cond_t *restrict cond,
    pthread_mutex_t *restrict mutex, const struct timespec *restrict until)
{
	struct timespec ts;
	int r;
	REAL(pthread_cond_timedwait);

	if (!inside())
		return (real_pthread_cond_timedwait(cond, mutex, until));
	/* CPython's are on the monotonic clock; a realtime one only differs
	 * by when it looks at the time, which nobody promised. */
	translate(CLOCK_MONOTONIC, until, &ts);
	r = real_pthread_cond_timedwait(cond, mutex, &ts);
	if (r == ETIMEDOUT)
		moved_to(until);
	return (r);
}

int
pthread_cond_clockwait(pthread_cond_t *restrict cond,
    pthread_mutex_t *restrict mutex, clockid_t clock,
    const struct timespec *restrict until)
{
	struct timespec ts;
	int r;
	REAL(pthread_cond_clockwait);

	if (!inside())
		return (real_pthread_cond_clockwait(cond, mutex, clock,
		    until));
	translate(clock, until, &ts);
	r = real_pthread_cond_clockwait(cond, mutex, clock, &ts);
	if (r == ETIMEDOUT)
		moved_to(until);
	return (r);
}

/* Waits of a length: when they last to the end, the clock has moved. */
int
poll(struct pollfd *fds, nfds_t n, int ms)
{
	int r;
	REAL(poll);

	r = real_poll(fds, n, ms);
	if (inside() && r == 0 && ms > 0)
		determ.time_ns += (uint64_t)ms * 1000000;
	return (r);
}

int
select(int n, fd_set *restrict rd, fd_set *restrict wr,
    fd_set *restrict ex, struct timeval *restrict tv)
{
	uint64_t us = tv == NULL ? 0 : (uint64_t)tv->tv_sec * 1000000 +
	    (uint64_t)tv->tv_usec;
	int r;
	REAL(select);

	r = real_select(n, rd, wr, ex, tv);
	if (inside() && r == 0)
		determ.time_ns += us * 1000;
	return (r);
}

int
epoll_wait(int fd, struct epoll_event *events, int n, int ms)
{
	int r;
	REAL(epoll_wait);

	r = real_epoll_wait(fd, events, n, ms);
	if (inside() && r == 0 && ms > 0)
		determ.time_ns += (uint64_t)ms * 1000000;
	return (r);
}

/* --- randomness -------------------------------------------------------- */

static void
draw(void *buf, size_t n)
{
	uint64_t word, seed = determ_seed();
	uint8_t *p = buf;
	size_t k;

	for (; n > 0; n -= k, p += k) {
		word = determ_mix(seed + 0x9e3779b97f4a7c15ULL *
		    ++determ.drawn);
		k = n < sizeof(word) ? n : sizeof(word);
		memcpy(p, &word, k);
	}
}

ssize_t
getrandom(void *buf, size_t n, unsigned int flags)
{
	REAL(getrandom);

	if (!inside())
		return (real_getrandom(buf, n, flags));
	draw(buf, n);
	return ((ssize_t)n);
}

/* os.getrandom() makes the system call itself. */
long
syscall(long number, ...)
{
	long a[6];
	va_list ap;
	int i;
	REAL(syscall);

	/* Six words are always there to be read; the kernel ignores those
	 * that the call does not have. */
	va_start(ap, number);
	for (i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (inside() && number == SYS_getrandom) {
		draw((void *)(uintptr_t)a[0], (size_t)a[1]);
		return (a[1]);
	}
	return (real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]));
}
