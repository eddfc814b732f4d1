/*
 * A thread that does one job at a time for the loop's thread: given, worked
 * on, taken back.  The thread sees the job alone, never live state.
 */
#ifndef WORKER_HANDOFF_H
#define WORKER_HANDOFF_H

#include <pthread.h>
#include <stdbool.h>

#include "common/err.h"

struct handoff {
	pthread_t	 thread;
	pthread_mutex_t	 lock;
	pthread_cond_t	 wake;
	void		*job;		/* given, not yet taken back */
	bool		 busy, done, quit, running;
	void		(*work)(void *owner, void *job);
	void		*owner;
	void		(*notify)(void *);	/* from the thread */
	void		*arg;
};

void	handoff_init(struct handoff *);
/* work and notify run on the thread, notify when a job is done. */
int	handoff_start(struct handoff *, void (*work)(void *owner, void *job),
	    void *owner, void (*notify)(void *), void *arg, struct err *);
void	handoff_give(struct handoff *, void *job);	/* one at a time */
/* A finished job, back to its giver; NULL if none. */
void   *handoff_take(struct handoff *);
/* Waits for the job at work; does nothing when no thread runs. */
void	handoff_stop(struct handoff *);
void	handoff_fini(struct handoff *);		/* after handoff_stop */

#endif
