/*
 * The deterministic machine: journal entries in, outbox frames out.  It does
 * no I/O: no sockets, no files, no clock of its own, so that a simulation
 * can run it.  What it holds is what a checkpoint holds (checkpoint.h).
 *
 *	entry -> decode -> key -> route -> step(state) -> encode -> turn
 *
 * Takes entries from journal.h; gives frames to the turn, which the loop
 * hands to the outboxes before it releases `done`.  One thread.
 */
#ifndef WORKER_AUTOMATON_H
#define WORKER_AUTOMATON_H

#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

#include "common/buf.h"
#include "common/conf.h"
#include "common/err.h"
#include "common/letter.h"
#include "common/stats.h"
#include "common/topo.h"
#include "worker/connector.h"
#include "worker/determ.h"
#include "worker/host.h"
#include "worker/journal.h"
#include "worker/keytab.h"
#include "worker/offsets.h"
#include "worker/progress.h"
#include "worker/window.h"

#define AUTOMATON_DEPTH	64	/* multi and window stages along one path */
#define ASIDE_MOST	64	/* letters of set-aside records that wait */
#define FRAMING_CALL	UINT32_MAX	/* number of a call before a record */
#define ASIDE_BARE	2	/* level: no user code touches the record */

/* Head of an ENTRY_FRAME's payload; encoded records follow. */
struct frame_head {
	uint64_t	lineage;
	uint64_t	pos;		/* stamp of the last record */
	uint32_t	index;
	uint32_t	records;
};

/* How far a sender's exchange is journaled (or processed) here. */
struct mark {
	uint64_t	lineage;	/* of the sender's positions, or 0 */
	uint64_t	pos;
	uint32_t	index;
};

/* One client connection as the automaton sees it. */
struct in_conn {
	uint64_t	id;
	uint32_t	source;
	bool		eof;		/* nothing more comes */
	bool		bad;		/* sent garbage: is being closed */
	uint64_t	off;		/* bytes taken from the journal */
	struct part	part;
	struct buf	rem;		/* undecoded */
	/* A connector's, since its worker last looked, in no checkpoint: */
	struct buf	reply;		/* what it is answered */
	uint32_t	frames;		/* that it has sent */
	bool		talks;		/* is in the automaton's `talk` */
	UT_hash_handle	hh;
};

/* A file, stdin, generator or connector source, which exists on its owner
 * alone; of one in Kafka every worker has its part. */
struct in_source {
	uint64_t	off;		/* bytes, values, or events of streams,
					   taken */
	uint64_t	dev, ino;	/* of the file */
	bool		ended;
	struct part	part;		/* of a listener: of clients that
					   have gone */
	struct buf	rem;
	struct streams	streams;	/* of a connector */
	struct offsets	offsets;	/* in Kafka: of this worker */
};

/* A frame to be: end = offset in the turn's data behind it. */
struct turn_frame {
	uint64_t	pos;		/* stamp of its last record */
	uint32_t	index;
	uint32_t	records;
	size_t		end;
};

/* Output of this turn for one receiver. */
struct turn {
	struct buf	data;		/* records, or bytes for a sink */
	struct buf	lens;		/* sink: u32 per record */
	struct turn_frame *frame;
	size_t		nframes;
	size_t		cap;
	struct turn_frame *last;	/* NULL: there is none */
	size_t		start;		/* of the last one, in data */
	bool		here;		/* a sink that this worker writes */
	int		fn;		/* a sink's encoder */
	/* As it was before the record at work, to take that one back. */
	uint64_t	undo_stamp;
	size_t		undo_data, undo_lens, undo_nframes, undo_start;
	struct turn_frame undo_last;
};

/*
 * A call of user code that is not made, because it killed the process: call
 * number `call` of the record with this stamp.  The decision is an entry of
 * the journal behind the record, found by recovery before the replay begins;
 * the record's letter waits for it, and leaves with its stamp.
 */
struct aside {
	uint64_t	stamp;
	uint32_t	call;
	uint32_t	level;		/* ASIDE_BARE: its letter killed, too */
	uint64_t	at;		/* position of the entry */
	char		*death;		/* owned; how the process died, and
					   lines of its stack if known */
	struct buf	letter;		/* empty: the record did not come */
};

/* A stage as a message comes to it: what topo.h says, ready to be used. */
struct op {
	const struct op		*next;
	struct keytab		*keys;		/* of stages with state */
	enum topo_stage_kind	 kind;
	int			 stage;
	int			 fn;
	int			 exchange;
	bool			 multi;
	bool			 ends;		/* it has an on_end */
	uint64_t		 bit;		/* in steps */
	uint64_t		 at;		/* NOTE_CALL without a number */
	uint64_t		 in_stage;	/* as in stats.h */
};

struct automaton {
	const struct conf_app	*conf;
	const struct topo	*topo;
	const struct host	*host;
	struct host_app		*app;
	struct journal		*journal;
	struct stats		*stats;
	uint32_t		 worker;
	uint32_t		 workers;
	uint64_t		 epoch;
	uint16_t		*table;		/* [partitions] -> worker */
	unsigned int		 bits;

	/* Where it stands. */
	uint64_t		 entry;		/* position of current entry */
	uint64_t		 pos;		/* processed up to here */
	uint64_t		 drop;		/* R: outputs <= R have left */
	struct in_conn		*conns;		/* by id */
	struct in_source	*sources;	/* [nsources] */
	/* A key that waits to be saved is about to change. */
	void			(*save_first)(void *, size_t stage,
				    struct kent *);
	void			*save_arg;
	/* A key that a partial table does not have: automaton_load it, if it
	 * is saved.  -1: *err is set. */
	int			(*load_key)(void *, size_t stage,
				    struct slice key, struct err *);
	void			*load_arg;
	uint64_t		*source_hash;	/* [nsources] of their keys */
	struct mark		*marks;		/* [exchange * workers + w] */
	struct keytab		*keys;		/* [nstages], with state only */
	struct op		*ops;		/* [nstages] */
	struct windows		*windows;	/* [nstages], those only */
	size_t			 nwindows;	/* stages with windows */
	struct progress		 progress;	/* what still comes */

	/* The record at work. */
	uint64_t		 now_ns;	/* of its entry */
	uint64_t		 stamp;
	uint32_t		 index;		/* of its next output */
	uint32_t		 call;		/* calls of user code so far */
	struct journal_note	*note;		/* says so after a death */
	struct journal_note	 no_note;	/* where there is no file */
	struct buf		 scratch;
	struct buf		 keybuf[AUTOMATON_DEPTH][2];
	uint8_t			 keyturn[AUTOMATON_DEPTH]; /* the next is in
						   this one of the two */
	struct host_out		 out[AUTOMATON_DEPTH];
	struct host_window	 win[AUTOMATON_DEPTH];
	struct event		 event[AUTOMATON_DEPTH];
	struct part		*part;		/* of its source, or NULL */
	bool			 by_event;	/* messages have event times */

	/* Outputs of this turn. */
	struct turn		*to_peer;	/* [exchange * workers + w] */
	struct turn		*to_sink;	/* [nsinks] */
	size_t			 turn_bytes;
	int			 dead_sink;	/* the dead letters, or -1 */
	size_t			 live_sinks;	/* those of all outputs, which
						   come first */
	struct buf		 garbage;	/* u64 ids of connections that
						   turned bad */
	struct buf		 talk;		/* u64 ids of connections that
						   are to be answered */
	uint64_t		 nkeys;		/* also those not loaded */

	/* The entry at work. */
	uint64_t		 sum;		/* of its outputs */
	uint64_t		 steps;		/* that it came to, bits */
	struct buf		 seen;		/* keys, in a replay */
	uint32_t		 nseen;

	/* Records that are set aside. */
	struct aside		*aside;		/* in the order of `at` */
	size_t			 naside;
	bool			 passed;	/* one was: end the turn */
	uint64_t		 putback;	/* seq of ENTRY_LETTER */
};

/* Members conf .. bits are set before. */
int	automaton_init(struct automaton *, struct err *);
void	automaton_fini(struct automaton *);
/* Worker that owns a key now. */
uint32_t automaton_owner(const struct automaton *, struct slice key);
/* The one worker that reads a file/gen source or writes a file sink. */
static inline uint32_t
automaton_writer(const struct automaton *a, size_t i)
{
	return ((uint32_t)(i % a->workers));
}

/* Does this worker read source i, or some of it, by itself? */
static inline bool
automaton_reads(const struct automaton *a, size_t i)
{
	return (!source_listens(&a->topo->sources[i]) &&
	    (a->topo->sources[i].kind == SOURCE_KAFKA ||
	    automaton_writer(a, i) == a->worker));
}

/*
 * Process journaled records until the tail, until deadline_ns (monotonic
 * time from now(), asked after each record that has begun some microseconds
 * after the last answer), or until the turn holds
 * max_bytes.  On -1 the failed record's outputs are taken back and pos
 * stands before it; ERR_USER means the policy is to fail.
 */
int	automaton_run(struct automaton *, uint64_t (*now)(void),
	    uint64_t deadline_ns, size_t max_bytes, struct err *);
/* When it wants an ENTRY_TICK: 0 at once, UINT64_MAX never. */
uint64_t automaton_tick(const struct automaton *);
/* Have all sources ended, and has everything that they gave come to where it
 * leaves this worker?  What others still do is theirs to say. */
static inline bool
automaton_ended(const struct automaton *a)
{
	return (a->progress.ended && !a->progress.dirty);
}
/* A saved key of a stage with state, when it begins; an older one of the same
 * key is replaced.  -1: *err is set. */
int	automaton_load(struct automaton *, size_t stage, struct slice key,
	    struct slice value, struct err *);
/* Its bytes to be saved, none for one that has expired; from the checkpoint.
 */
int	automaton_save(struct automaton *, size_t stage, struct kent *,
	    struct buf *, struct err *);
/* It was saved: one that has expired is forgotten. */
void	automaton_forget(struct automaton *, size_t stage, struct kent *);
/* All connections that the checkpoint knew are gone. */
void	automaton_forget_conns(struct automaton *);
/* The turn has gone to the outboxes. */
void	automaton_turn_clear(struct automaton *);

/* Sets l->index to what its name means in this pipeline. */
int	automaton_letter_place(const struct automaton *, struct letter *,
	    struct err *);
/* An ENTRY_ASIDE for these; what its payload says, and learning of it. */
void	automaton_aside_pack(struct buf *, uint64_t stamp, uint32_t call,
	    uint32_t level, const char *death);
int	automaton_aside_add(struct automaton *, const struct entry *,
	    struct err *);
/* Room for the one whose entry is at `at`; NULL: it is there. */
struct aside *automaton_aside_new(struct automaton *, uint64_t at);
/* Their letters are lost. */
void	automaton_aside_forget(struct automaton *);
/* How often this call was set aside already. */
uint32_t automaton_aside_level(const struct automaton *, uint64_t stamp,
	    uint32_t call);

/* State object of a key for reading; *found false if there is none. */
int	automaton_query(struct automaton *, struct slice step,
	    struct slice key, struct buf *repr, bool *found, struct err *);

#endif
