/*
 * What a seed means.  The work (pipeline, input) and the schedule have random
 * numbers of their own, so that a run without faults has the same input.
 */
#ifndef TESTS_SIM_PLAN_H
#define TESTS_SIM_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/sim/sim.h"

#define INPUTS		1200
#define CLIENTS		4
#define KEYS		6		/* first keys of a source */
#define KILLS		12

struct conf_app;

/* Outputs of the first step for one input; of what becomes of one in a second
 * step with timers: its own output, that of the timer that it sets, and that
 * of the one that this sets. */
#define FANS		3
#define ROUNDS		3
#define SUBS		(FANS * ROUNDS)

/* A transfer: key1 pays, key2 gets. */
struct input {
	uint32_t	key1;
	uint32_t	key2;
	uint32_t	amount;
	uint32_t	pad;		/* bytes beside these */
	bool		dropped;	/* by the decoder */
	uint32_t	fan;		/* outputs of the first step */
	/* as the reference has it, after this input */
	uint64_t	v1, d1;
	int64_t		balance1;
	/* event time, and that at which it is applied unless more is late */
	uint64_t	time, at;
};

/* The second step has timers and a ttl. */
enum timing { UNTIMED, TIMED_EVENT, TIMED_PROCESSING };

/* Clients come first, then the file, then the generator. */
enum { FROM_FILE = CLIENTS, FROM_GEN, FROMS };

struct kill {
	struct killer	 how;
	uint64_t	 after;		/* the one before, ns */
	uint64_t	 stop_ns;	/* not killed but stopped so long */
	bool		 again;		/* while somebody recovers */
};

/* Mapped files of all workers or of one, its journal; an older copy of one's
 * database, its journal, or all it has; entries that were confirmed. */
enum loss_kind { LOSS_ALL, LOSS_FILES, LOSS_JOURNAL, LOSS_OLD_DATABASE,
	LOSS_OLD_JOURNAL, LOSS_OLD_WORKER, LOSS_TAIL, LOSSES };

struct plan {
	uint64_t	 seed;
	struct rng	 work, sched;
	char		 plant[24];
	bool		 faults;

	uint32_t	 workers;
	uint32_t	 spares;
	bool		 tcp_source, file_source, gen_source;
	bool		 tcp_sink, file_sink;
	bool		 single;	/* each key2 gets from one key1 */
	bool		 fans;		/* the first step may give several */
	enum timing	 timed;
	bool		 exact;		/* no speed has influence on it */
	uint64_t	 lateness, idle, ttl, delay;	/* event time: units */
	uint32_t	 nclients;
	uint32_t	 ninputs;
	struct input	 input[INPUTS];
	uint32_t	 from[FROMS][INPUTS];	/* inputs in order */
	uint32_t	 nfrom[FROMS];
	uint64_t	 start;		/* first journal position */
	uint32_t	 user_ns;	/* that a step takes */
	uint64_t	 pace;		/* between writes of a client */
	int64_t		 checkpoint_ms;
	int64_t		 mark;		/* outbox-mark */
	int64_t		 journal;	/* journal-size */

	/* the system: one in so many calls, 0 never; times in ns */
	uint32_t	 preempt, eintr, partial, toomany, no_fork, refuse;
	uint64_t	 latency, network, channel;
	uint64_t	 wall_skew, most_skew;
	uint32_t	 boot;
	bool		 blind;		/* no leftovers are found */
	uint32_t	 db_errors;
	uint64_t	 space_from, space_to;	/* the disk is full */
	bool		 resets;	/* receivers reset */
	bool		 slow;		/* receivers are slow */
	bool		 middle;	/* a clean stop half way */
	bool		 blackout;	/* more is lost than may be: loss.c */
	enum loss_kind	 loss;
	uint32_t	 loss_worker;
	bool		 machine;	/* durability */
	bool		 after;		/* outputs after the checkpoint */
	uint64_t	 sync_ns;	/* that a round takes, at most ... */
	uint32_t	 lagging;	/* and much longer with this worker */
	uint32_t	 sync_errors;
	struct kill	 kill[KILLS];
	uint32_t	 nkills;
};
extern struct plan plan;

/* How it may end for somebody at a point: a worker or the supervisor is
 * killed (enum proc_kind), or the power fails when a worker is there. */
#define END_POWER	2
#define ENDS		3

/* What happened, for the summary. */
struct counts {
	uint64_t seeds, inputs, crashes, recrashes, supervisor_crashes, alls,
	    stops, lives, outputs, repeats, checkpoints, middle, goldens,
	    virtual_ms, blackouts, accepted, machines, afters, losses, relosses,
	    timed, exact, timers, expired;
	uint64_t passed[ENDS][PHASES][POINT_KINDS * 2];
	uint64_t killed[ENDS][PHASES][POINT_KINDS * 2];
};
extern struct counts counts;

void	plan_make(uint64_t seed, const char *plant, bool faults);
/* The seed that was made has one kill more, at this place. */
#define PLACES		(ENDS * PHASES * POINT_KINDS * 2)
#define PLACE(kind, ph, id)	\
	(((unsigned int)(kind) * PHASES + (ph)) * POINT_KINDS * 2 + (id))
void	plan_aim(unsigned int place);
void	plan_conf(struct conf_app *);
void	plan_passed(const struct proc *, unsigned int id);
void	plan_killed(struct proc *, unsigned int id);
void	plan_death(struct proc *);
bool	plan_no_space(void);
bool	plan_refuses(void);
void	plan_file_written(struct inode *);	/* actors.c */
void	plan_file_cut(struct inode *);
void	plan_arm(void);			/* the next kill */
void	plan_arm_late(void);		/* one during the stop */
bool	plan_over(void);		/* no more faults */
uint64_t plan_mix(uint64_t, uint64_t);
/* Bytes of an input as a client sends them; returns how many. */
#define FRAME_MAX	1400
size_t	plan_frame(uint32_t seq, uint8_t *to);
const uint8_t *plan_pad(uint32_t seq);	/* what stands behind its head */

/* actors.c */
void	actors_start(void);
void	actors_reset(void);
void	actors_death(struct proc *);
void	actors_power_loss(struct proc *);
bool	actors_dark(void);		/* nothing has been started since */
bool	actors_accept_loss(void);	/* the operator does, now */
bool	actors_beyond(void);		/* more is lost than may be */

/* loss.c */
void	loss_reset(void);
bool	loss_ready(void);
void	loss_happens(void);
bool	loss_may_be_unseen(void);
struct proc *world_start(void);
void	world_forget_store(void);
void	world_power_loss(void);
uint64_t world_losses(void);		/* that the catalog was told */
bool	world_clean(void);
uint64_t world_latest_ns(void);

/* oracle.c */
struct output {				/* what a sink gets, then pad */
	uint32_t	len;		/* of all of it */
	uint32_t	magic;
	uint32_t	seq, sub, key1, key2;
	uint64_t	v1, d1, nonce1;
	int64_t		balance1;
	uint64_t	v2, d2, nonce2;
	int64_t		balance2;
	uint64_t	sum;
};
#define OUTPUT_MAGIC	0x77616c6cu
struct state {				/* of a key, in either step */
	uint64_t	version;
	uint64_t	digest;
	int64_t		balance;
};
#define KEYS2		(FROMS * KEYS * 7 + 2)
/* The nonce is what code that is not deterministic may add, else 0. */
void	state_first(struct state *, uint32_t seq, uint64_t nonce);
void	state_second(struct state *, const struct output *);
uint64_t output_sum(const struct output *);
void	oracle_reset(void);
/* The file is read again from its beginning. */
void	oracle_file_again(void);
/* A whole record at a sink; again: it may be one that came before. */
void	oracle_output(bool file, const uint8_t *, size_t, bool again);
/* One from a worker's connection, whose *next is 0 at first. */
void	oracle_received(uint32_t worker, const uint8_t *, size_t, bool again,
	    uint32_t *next);
bool	oracle_has(uint32_t seq);
bool	oracle_complete(void);
void	oracle_final(void);		/* after a clean stop */
/* --accept-loss: each worker may begin at its checkpoint, once. */
void	oracle_accept(void);
void	oracle_accepted_final(void);
uint64_t oracle_digest(void);		/* of everything whose order is known */
void	oracle_missing(char *, size_t);

/* timed.c: what timers and ttl do to a key of the second step */
#define TIMERS		3
struct timed {
	struct state	 st;		/* balance: the time of its last */
	uint64_t	 expires;
	struct timer {
		uint64_t	 due;	/* 0: it is not set */
		struct output	 of;	/* what it gives, but for the state */
	}		 timer[TIMERS];
};
/* What the host has of a key. */
struct timed_key {
	struct timed	 t;
	uint64_t	 due, wait;	/* as the worker was told */
	uint64_t	 count;
	uint64_t	 nheld;		/* messages that wait, in order */
	struct held	*held;		/* the saved bytes end before it */
};
int	timed_first(const struct timed *);	/* timer, -1: none is set */
bool	timed_over(const struct timed *, uint64_t at);
/* A message is applied at that time; a timer fires. */
void	timed_message(struct timed *, struct output *, uint64_t at);
void	timed_fire(struct timed *, int which, uint64_t nonce, struct output *);
void	timed_make(void);		/* the reference */
void	timed_reset(void);
void	timed_file_again(void);
void	timed_check(const char *where, bool file, const struct output *);
bool	timed_complete(void);		/* no timer is still to fire */
void	timed_row(uint32_t worker, size_t key, struct slice value);
void	timed_final(void);
uint64_t timed_digest(void);

/* dump.c: the seed at work as text; nothing where no file was opened. */
void	dump_open(const char *path);
void	dump_output(bool file, const uint8_t *, size_t, bool again);
void	dump_file_again(void);
void	dump_state(const char *step, const char *key, const struct state *);
void	dump_close(const char *how);

#endif
