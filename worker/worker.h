/*
 * One worker process: the automaton and the I/O around it.  All members
 * belong to the one thread that runs the loop.
 *
 *	source.c ─┐                                   ┌─ sink.c ──► receivers
 *	peer.c  ──┴► journal ─► automaton ─► outboxes ┴─ peer.c ──► workers
 *	control.c: the supervisor, fd 3        checkpoint.c, store.c: SQLite
 */
#ifndef WORKER_WORKER_H
#define WORKER_WORKER_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

#include "common/buf.h"
#include "common/conf.h"
#include "common/err.h"
#include "common/msg.h"
#include "common/stats.h"
#include "common/topo.h"
#include "worker/automaton.h"
#include "worker/committer.h"
#include "worker/host.h"
#include "worker/journal.h"
#include "worker/outbox.h"
#include "worker/stable.h"
#include "worker/store.h"
#include "worker/sync.h"

#define WORKER_CHANNEL	3	/* descriptor of the supervisor's channel */
/* Numbers of saved outboxes in the store: an exchange's channel has its own,
 * sink i has BOX_SINKS + 2i for its head, whose body is its name, and one
 * more for its frames. */
#define BOX_SINKS	0x40000000u
#define FRAME_CHARGE	96	/* journal overhead per frame, for credit */

/* A client connection: the descriptor, and what the journal has of it. */
struct conn {
	struct worker	*w;
	uint64_t	 id;
	uint32_t	 source;
	int		 fd;		/* -1: known from the journal only */
	uint64_t	 journaled;	/* stream bytes in the journal */
	bool		 eof;		/* its end is in the journal */
	bool		 closing;	/* said close, waiting for dropped */
	bool		 fresh;		/* not yet in the journal */
	bool		 broken;	/* position lost */
	/* Of a connector: */
	bool		 greeted;	/* its HELLO was accepted */
	uint64_t	 since_ns;	/* when it came, or was not listened
					   to last */
	uint32_t	 credits;	/* that it has left */
	struct buf	 out;		/* what it has not taken yet */
	struct buf	 acks;		/* points to go into the next ACK */
	ev_io		 wr;
	ev_io		 io;
	UT_hash_handle	 hh;
};

/* A file, stdin or generator source that this worker reads. */
struct source {
	bool		 mine;
	int		 fd;		/* file to read, -1 */
	int		 in;		/* stdin, -1 */
	uint64_t	 journaled;	/* bytes, or values asked for */
	uint32_t	 asked;		/* values, by the last entry */
	uint64_t	 asked_to;	/* where that one ends */
	uint64_t	 asked_ns;	/* when it was made */
	uint64_t	 base;		/* stream offset of fd's byte 0 */
	bool		 eof;		/* its end is in the journal */
	bool		 in_eof;	/* stdin has ended */
	bool		 pipe;		/* it is one */
	bool		 wait;		/* for space */
	uint64_t	 punched;	/* freed bytes of the segment */
	ev_io		 io;
	struct kafka_source *kafka;	/* what reads it; NULL: not yet */
};

struct peer {
	struct worker	*w;
	uint32_t	 worker;
	int		 fd;		/* -1: not connected */
	bool		 greeted;	/* its hello has come */
	ev_io		 rd, wr;
	struct buf	 in;
	struct buf	 out;
	uint64_t	 charge;	/* of the frame at work */
	uint64_t	 announced;	/* stable position last said */
	struct peer_exchange {
		/* sending */
		bool		resumed;	/* it said where to go on */
		uint64_t	next;		/* outbox offset to send */
		uint64_t	sent;		/* charge since connected */
		uint64_t	limit;		/* charge it allows */
		/* receiving */
		uint64_t	got;		/* charge since connected */
		uint64_t	granted;	/* limit that we said */
		bool		ack;		/* an ack is due */
	} *x;
};

struct sink {
	struct worker	*w;
	size_t		 index;
	struct outbox	 box;
	bool		 mine;
	bool		 asked;		/* for a connection */
	bool		 pipe;		/* stdout, not a file */
	bool		 half_closed;	/* the receiver sends no more */
	int		 fd;		/* -1: none now */
	uint64_t	 frame;		/* outbox offset of frame at work */
	uint64_t	 written;	/* payload offset written next */
	uint64_t	 synced;	/* file: payload that is on the disk */
	uint64_t	 retry_ns;	/* when to try again */
	struct committer *committer;	/* of a connector */
	struct kafka_sink *kafka;	/* of a topic */
	ev_io		 wr;
};

struct worker {
	struct ev_loop	*loop;
	struct conf_app	 conf;
	struct topo	 topo;
	uint32_t	 me;
	uint32_t	 n;
	uint64_t	 epoch;
	uint64_t	 generation;
	uint64_t	 start_time_ns;
	uint32_t	 flags;		/* START_* */
	char		*run_dir;
	struct stats	*stats;
	bool		 durable;	/* durability is not none */
	bool		 machine;	/* durability is machine */
	bool		 after_checkpoint; /* outputs leave after its commit */

	struct journal	 journal;
	char		*journal_path;	/* NULL: none */
	struct automaton a;
	struct outbox	*peer_box;	/* [exchange * n + worker] */
	struct mark	*journaled;	/* [exchange * n + worker] */
	uint64_t	*pending;	/* [exchange * n + worker] charge in
					   the journal, not yet freed */
	uint64_t	 pending_all;
	uint64_t	 window;	/* charge a channel may have pending */
	uint64_t	 source_room;	/* journal bytes for sources */
	uint64_t	 lineage;
	uint64_t	 shape;		/* digest of the pipeline's shape */
	uint64_t	 saved_shape;	/* the checkpoint's */
	uint64_t	 saved_clock_ns; /* the checkpoint's */
	uint64_t	*saved_keys;	/* [nstages] of the checkpoint */
	uint64_t	 replay_to;	/* tail that recovery found */
	uint64_t	 putback;	/* journaled of the supervisor's */
	struct buf	 putback_due;	/* answers that wait to be stable */
	struct journal_suspect *charged; /* with it; NULL: none was */
	char		*death;		/* of the last process, if by its own
					   doing, else "" */
	uint64_t	 tick_end;	/* behind this process's last tick */
	uint64_t	 opened;	/* epoch of the last start */
	bool		 lost;		/* power was: wait for the last cut */
	bool		 older;		/* catalog.sqlite is an older copy */
	bool		 unclean;	/* began with an old journal */

	struct peer	*peers;		/* [n] */
	struct sink	*sinks;		/* [nsinks] */
	struct source	*sources;	/* [nsources] */
	struct conn	*conns;		/* by id */

	struct stable	 stable;
	struct sync	 sync;
	bool		 syncing;	/* a round is under way */
	struct buf	*snapshot;	/* [nboxes] outboxes as the
					   checkpoint has them */
	struct store_job *held;		/* a checkpoint, not yet stable */
	bool		 held_synced;	/* a round with the outboxes has come
					   back since it was made */
	uint64_t	 committed;	/* position of the last one */
	uint64_t	 commits;	/* how many there were */
	bool		 early;		/* do not wait for the timer */
	bool		 asked_commit;	/* the timer has waited for votes */
	struct txns	 txns;		/* as the checkpoint had them */
	uint64_t	 settle_at;	/* nothing is processed until a
					   checkpoint has this position */

	struct store	 store;
	struct storeread *reading;	/* keys are left in there, or NULL */
	struct store_job *retry;	/* a checkpoint that failed */
	struct store_job *taking;	/* keys are being saved for it */
	bool		 checkpointing;	/* one is taken, or with the writer */
	uint64_t	 want_checkpoint; /* request number, 0 = none */
	uint64_t	 failed_ns;	/* when the last one failed */

	uint64_t	 stdin_ns;	/* when to try it again */
	uint64_t	 silent_ns;	/* when to look for silent connectors */

	bool		 running;	/* `run` has come */
	bool		 ready;		/* said so */
	bool		 draining;	/* sources have stopped for good */
	bool		 finishing;
	bool		 aborting;	/* finish without a checkpoint */
	bool		 admitting;	/* sources may be read */
	bool		 idle;		/* user threads may run */
	bool		 stalled;	/* the turn waits for outbox space */

	ev_io		 control;
	ev_prepare	 turn;
	ev_idle		 more;
	ev_timer	 tick;
	ev_timer	 checkpoint;
	ev_timer	 settle;	/* receivers have not acknowledged */
	ev_async	 stored;	/* the writer is done */
	ev_async	 synced;	/* a round is */
	struct buf	 control_out;	/* queued: u32 length, bytes */

	struct buf	 list;		/* keys that are being given away */
	uint64_t	 list_id;	/* 0: none */
};

/* Outboxes in the order of their numbers in a checkpoint: exchanges by peer,
 * then sinks; NULL where this worker has none. */
static inline size_t
worker_nboxes(const struct worker *w)
{
	return ((size_t)w->topo.nexchanges * w->n + w->topo.nsinks);
}

static inline struct outbox *
worker_box(const struct worker *w, size_t i)
{
	size_t n = (size_t)w->topo.nexchanges * w->n;

	if (i < n)
		return (i % w->n == w->me ? NULL : &w->peer_box[i]);
	return (w->sinks[i - n].mine ? &w->sinks[i - n].box : NULL);
}

static inline size_t
channel_of(const struct worker *w, uint32_t x, uint32_t peer)
{
	return ((size_t)x * w->n + peer);
}

/* Say why to the supervisor and the log, and exit. */
void	worker_fatal(struct worker *, int code, const char *, ...)
	    __attribute__((noreturn, format(printf, 3, 4)));
void	worker_fatal_err(struct worker *, const struct err *)
	    __attribute__((noreturn));

/* loop.c */
void	loop_run(struct worker *) __attribute__((noreturn));
void	loop_flush(struct worker *);	/* the turn goes to the outboxes */
void	loop_process(struct worker *, uint64_t budget_ns);
/* Is any outbox of an exchange after x, or of a sink, above its mark?
 * x -1: any at all. */
bool	loop_pressure(const struct worker *, int x);
bool	loop_quiet(struct worker *);	/* nothing inside is under way */

/* recover.c: open or make journal, outboxes, state.  Refused: -1 and text
 * has one line per finding. */
int	recover_open(struct worker *, struct buf *text, struct err *);
/* Sources and sinks, when the journal is settled. */
void	recover_ends(struct worker *);
/* After a power loss: where does the journal end if others end there?  text:
 * what speaks against it. */
uint64_t recover_cutoff(const struct worker *, const struct cut *,
	    struct buf *text);
/* Go back to there, for good. */
int	recover_cut(struct worker *, const struct cut *, struct err *);
void	recover_unlink(struct worker *);
char	*worker_path(const struct worker *, const char *suffix);
char	*worker_db_path(const char *dir, uint32_t worker, uint64_t generation);

/* From the files of a copy, to be run again without giving anything. */
int	recover_replay(struct worker *, const char *dir, bool force,
	    struct err *err);

/* load.c: saved keys.  The first of them at the start, the others as they are
 * needed and bit by bit. */
int	load_begin(struct worker *, struct err *);
/* Some more: true if it is to be called again soon. */
bool	load_slice(struct worker *);
int	load_all(struct worker *, struct err *);
void	load_end(struct worker *);	/* no more are needed */

/* make.c: the automaton and what surrounds it; n, me, epoch, conf, topo,
 * stats and the host are set.  unmake frees that, once all is closed. */
int	worker_make(struct worker *, struct err *err);
void	worker_unmake(struct worker *);

/* replay.c: what the program does with --copy and --replay. */
int	replay_copy(int argc, char **argv);
int	replay_run(struct worker *, int argc, char **argv);
/* What a copy says of itself; the slices borrow bytes, which are set.  false:
 * it is none. */
struct replay_about {
	struct buf	 bytes;
	uint64_t	 module;
	struct slice	 conf, topology;
};
bool	replay_unpack(struct worker *, struct replay_about *);

/* checkpoint.c */
#define AUTOMATON_VERSION	5	/* of what checkpoint_pack packs */
#define AUTOMATON_FIELDS	16
void	checkpoint_pack(const struct worker *, struct buf *);
int	checkpoint_unpack(struct worker *, struct slice, struct err *);
void	checkpoint_begin(struct worker *);
void	checkpoint_slice(struct worker *, bool all);
void	checkpoint_wait(struct worker *);	/* for the one at work */
void	checkpoint_count(struct worker *, uint64_t commits);
void	checkpoint_done(struct worker *);	/* writer has finished one */
void	checkpoint_free(struct worker *, uint64_t pos);
void	checkpoint_finish(struct worker *) __attribute__((noreturn));
bool	checkpoint_urgent(const struct worker *);

/* poison.c: records that kill */
void	poison_open(struct worker *);
void	poison_decide(struct worker *);	/* at `run`, after source_recover */
/* durable.c */
int	durable_start(struct worker *, struct err *);
void	durable_stop(struct worker *);
void	durable_turn(struct worker *);
void	durable_round(struct worker *);
int	durable_sync_all(struct worker *, struct err *);
/* Highest position whose outputs may go to sinks, to other workers. */
uint64_t durable_sink_limit(const struct worker *);
uint64_t durable_peer_limit(const struct worker *);
bool	durable_quiet(const struct worker *);
bool	durable_holds(const struct worker *);	/* nothing is processed */

/* putback.c: records of dead letters */
void	putback_take(struct worker *, const struct msg_putback *);
void	putback_note(struct worker *, const struct entry *);
void	putback_stable(struct worker *);

/* source.c */
void	source_open(struct worker *);
void	source_conn(struct worker *, const struct msg_conn *, int fd);
void	source_dropped(struct worker *, uint64_t id);
void	source_stdin(struct worker *, uint32_t source, int fd);
void	source_recover(struct worker *);	/* at `run`: staged bytes */
void	source_admit(struct worker *);		/* start or stop reading */
bool	source_pump(struct worker *);		/* files, generators */
bool	source_tick(struct worker *);		/* for windows */
void	source_garbage(struct worker *);
uint64_t source_space(const struct worker *);
bool	source_settled(const struct worker *);
uint32_t source_open_count(const struct worker *);	/* files and the like */
struct conn *source_find(struct worker *, uint64_t id);
bool	source_is_feeder(const struct conn *);
/* Its end, with flags of ENTRY_EOF, goes into the journal; it is closed. */
void	source_end(struct conn *, uint16_t flags, const char *why);
char	*source_segment(const struct worker *, size_t source);

/* feeder.c: answers to connectors that feed sources */
void	feeder_attach(struct conn *);
void	feeder_talk(struct worker *);		/* once per turn */
void	feeder_silent(struct worker *);		/* who has not said hello */
void	feeder_taken(struct worker *);		/* a checkpoint begins */
void	feeder_committed(struct worker *);	/* and is committed */
void	feeder_finish(struct worker *);		/* connect again */
/* Write to a connector what it takes now.  -1: errno says why not all. */
int	feeder_send(int fd, struct buf *out);

/* kafka_source.c: partitions that this worker reads; kafka_none.c, where
 * there is no librdkafka.  True: there may be more at once. */
bool	kafka_source_pump(struct worker *, size_t source);
void	kafka_source_lag(struct worker *);	/* to be counted now and then */
void	kafka_source_taken(struct worker *);	/* a checkpoint begins */
/* And is committed; the last one of this process waits a moment until the
 * group knows. */
void	kafka_source_committed(struct worker *, bool last);

/* peer.c */
void	peer_attach(struct worker *, uint32_t worker, int fd);
void	peer_run(struct worker *);	/* at `run`, with those that came */
void	peer_flush(struct worker *);
int	peer_scan(struct worker *, struct entry *, int sign);
#ifdef WALLAROO_PLANTED
void	peer_late(struct worker *);
#endif

/* sink.c */
int	sink_open(struct worker *, struct err *);
void	sink_lost(struct worker *);	/* outboxes are restored */
void	sink_conn(struct worker *, const struct msg_sinkconn *, int fd);
void	sink_stdout(struct worker *, uint32_t sink, int fd);
bool	sink_flush(struct worker *);	/* true: receivers owe us acks */
bool	sink_empty(const struct worker *);
void	sink_finish(struct worker *);	/* settle what receivers have */
void	sink_committed(struct worker *); /* as the last snapshot has it */
/* Go on at this payload offset; receivers have everything before it; ask for
 * a connection. */
void	sink_seek(struct sink *, uint64_t to);
void	sink_trim(struct sink *, uint64_t to);
uint64_t sink_kept_from(const struct sink *);	/* first byte in the outbox */
void	sink_ask(struct sink *);
/* Files on a disk: is there something to sync?  Put it into a round.  A round
 * has come back; or it has failed, and nothing since the last is sure. */
bool	sink_unsynced(const struct worker *);
void	sink_sync(struct worker *, struct sync_round *);
void	sink_synced(struct worker *, size_t sink, uint64_t written);
void	sink_distrust(struct worker *);

/* control.c */
void	control_send(struct worker *, struct buf *);
void	control_attach(struct worker *);
void	control_flush_blocking(struct worker *);
/* One message from a SEQPACKET socket into buf, a passed descriptor or -1.
 * 1 message, 0 closed, -1 errno (EAGAIN). */
int	control_receive(int fd, struct buf *, int *passed);
/* A JSON string with its quotes; bytes that are no text as \xNN. */
void	control_json(struct buf *, struct slice);

/* list.c */
void	list_answer(struct worker *, const struct msg_list *);

/* tcpinfo.c */
int	tcp_consumed(int fd, uint64_t *, bool *uncertain, struct err *);
int	tcp_sent(int fd, uint64_t *acked, uint64_t *accepted, struct err *);
bool	tcp_is_over(int fd);

/* children.c: what user code forks gets none of our descriptors. */
void	children_guard(struct worker *);

/* respread.c */
int	respread(struct worker *, struct err *);

#endif
