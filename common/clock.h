/* Time for the runtime itself: never the interposed clock of user code. */
#ifndef COMMON_CLOCK_H
#define COMMON_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

uint64_t	clock_wall_ns(void);	/* CLOCK_REALTIME */
uint64_t	clock_mono_ns(void);	/* CLOCK_MONOTONIC */
/*
 * Some microseconds may have passed since this last said so; *at is 0 before.
 * For who would ask a clock more often than that is worth.
 */
#if defined(__x86_64__) && !defined(WALLAROO_SMALL)
/* A counter that runs at 1 to 5 GHz, whatever the processor does: so many are
 * 20 microseconds at most. */
#define CLOCK_TICKS	20000

static inline bool
clock_passed(uint64_t *at)
{
	uint64_t now = __builtin_ia32_rdtsc();

	if (now - *at < CLOCK_TICKS)	/* much more if it was set back */
		return (false);
	*at = now;
	return (true);
}
#else
static inline bool
clock_passed(uint64_t *at)
{
	(void)at;
	return (true);
}
#endif
/* n random bytes from the kernel; aborts if there are none. */
void		clock_random(void *, unsigned int n);
/* The kernel's boot id as 16 bytes; zeros where there is none.  One that
 * cannot be read now must not look like that of another boot: -1. */
int		clock_boot_id(uint8_t id[16], struct err *);

#endif
