/* Time for the runtime itself: never the interposed clock of user code. */
#ifndef COMMON_CLOCK_H
#define COMMON_CLOCK_H

#include <stdint.h>

#include "common/err.h"

uint64_t	clock_wall_ns(void);	/* CLOCK_REALTIME */
uint64_t	clock_mono_ns(void);	/* CLOCK_MONOTONIC */
/* n random bytes from the kernel; aborts if there are none. */
void		clock_random(void *, unsigned int n);
/* The kernel's boot id as 16 bytes; zeros where there is none.  One that
 * cannot be read now must not look like that of another boot: -1. */
int		clock_boot_id(uint8_t id[16], struct err *);

#endif
