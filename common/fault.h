/*
 * Fault points: places where a build configured with --enable-fault-points
 * counts, and does harm when it is told to; in any other build they are
 * nothing at all.
 *
 * Such a program is told by a file that the environment variable
 * WALLAROO_FAULTS names: struct fault_page, shared by all processes of an
 * application and by whoever tests them, who arms plans while they run.  A
 * plan fires once, whichever process comes first; the count goes on over the
 * death of processes, so the successor of one that was killed here is not
 * killed again.
 */
#ifndef COMMON_FAULT_H
#define COMMON_FAULT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/fault.def"

#define FAULT_ENUM(name, process, needs, kinds, text)			\
	FAULT_##name##_before, FAULT_##name##_after,
enum fault_point {
	FAULT_TABLE(FAULT_ENUM)
	FAULT_POINTS
};
#undef FAULT_ENUM

#define FAULT_ENUM(name, text)	FAULT_KIND_##name,
enum fault_kind {
	FAULT_KIND_none,
	FAULT_KINDS(FAULT_ENUM)
	FAULT_KINDS_END
};
#undef FAULT_ENUM
#define FAULT_BIT(kind)	(1U << FAULT_KIND_##kind)

#define FAULT_MAGIC	0x746c7561666c6177ULL	/* "walfault" */
#define FAULT_PLANS	16
#define FAULT_ANY	UINT32_MAX

enum fault_state {
	FAULT_IDLE,
	FAULT_ARMED,
	FAULT_FIRED,		/* waits for its call */
	FAULT_ACTED
};

struct fault_plan {
	_Atomic uint32_t	state;
	uint32_t		point;
	uint32_t		kind;
	uint32_t		worker;	/* in this one only, or FAULT_ANY */
	uint32_t		after;	/* plan that has fired before, or ANY */
	_Atomic uint32_t	pid;	/* in which it fired */
	_Atomic int64_t		count;	/* passages until it fires, 1 = next */
	int64_t			arg;	/* clock: seconds; oom: MiB */
};

struct fault_page {
	uint64_t		magic;
	uint32_t		points;
	uint32_t		kinds;
	_Atomic uint64_t	boots;	/* of the machine, as tests say */
	struct fault_plan	plan[FAULT_PLANS];
	_Atomic uint64_t	passed[FAULT_POINTS];
};

#ifdef WALLAROO_FAULTS
#define FAULT_POINT(name)	fault_point(FAULT_##name)
void	fault_point(enum fault_point);
/* This process is worker n. */
void	fault_worker(uint32_t n);
/* How far the wall clock has jumped. */
int64_t	fault_clock_ns(void);
/* Changes a boot id for each boot that a test pretends. */
void	fault_boot(uint8_t id[16]);
/* Was --list-fault-points asked for?  Then they are printed. */
bool	fault_listed(int argc, char *const argv[]);
#else
#define FAULT_POINT(name)	((void)0)
#define fault_worker(n)		((void)(n))
#define fault_clock_ns()	((int64_t)0)
#define fault_boot(id)		((void)(id))
#define fault_listed(c, v)	((void)(c), (void)(v), false)
#endif

#endif
