/*
 * Planted bugs: in a build configured with --enable-planted-bugs the
 * environment variable WALLAROO_PLANTED names one rule to break, so that the
 * tests can prove that they would notice.  Elsewhere this is nothing.  A
 * letter is another way to break the same rule, for the simulation, which
 * finds each of them (tests/sim/test_planted.py says what they are).  STABLE
 * and AFTER are rules of durability = machine and outputs = after-checkpoint.
 */
#ifndef WORKER_PLANTED_H
#define WORKER_PLANTED_H

#ifdef WALLAROO_PLANTED
#include <stdlib.h>
#include <string.h>

static inline int
planted(const char *rule)
{
	static const char *now;

	if (now == NULL && (now = getenv("WALLAROO_PLANTED")) == NULL)
		now = "";
	return (*now != '\0' && strcmp(now, rule) == 0);
}
#else
#define planted(rule)	0
#endif

#endif
