/*
 * wallaroo-supervisord: one thread, one libev loop, no data of users.
 *
 * Who does what, in the order of a start: place (directories, user, lock),
 * catalog (what is remembered), supervisor (life of the application), cut
 * (what workers agree on after a power loss), spawn
 * (fork and exec), child (life of one worker), spare (processes that wait to
 * be one), channel (messages to it), wire
 * (sockets between workers), listen (clients and receivers), hold (duplicates
 * of their connections), drain (the stop), finite (the end by itself), ctl
 * (the operator), external and extquery (operators' programs, over TCP),
 * notify (systemd), connector (programs beside sources and sinks).
 */
#ifndef SUPERVISOR_SUPERVISOR_H
#define SUPERVISOR_SUPERVISOR_H

#include <sys/types.h>
#include <sys/socket.h>

#include <bsd/sys/queue.h>
#include <ev.h>
#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

#include "common/conf.h"
#include "common/msg.h"
#include "common/stats.h"
#include "common/topo.h"

#define SUP_CHECK_S	1.0	/* between looks at every worker */
#define SUP_RETRY_S	0.25	/* connect, wire and other second tries */

/* --- options of the command line ----------------------------------------- */

struct rename_state {
	char	*from;			/* owned */
	char	*to;			/* owned; NULL: the state is dropped */
};
struct options {
	bool			 accept_loss;
	struct rename_state	*renames;
	size_t			 nrenames;
};

/* --- catalog.c: what must be known after any death ----------------------- */

struct catalog {
	struct sqlite3	*db;
	char		*path;
	uint64_t	 start_time_ns;	/* of the very first start */
	uint64_t	 epoch;		/* starts of a supervisor */
	uint64_t	 generation;	/* of the workers' files */
	uint32_t	 workers;	/* who wrote them; 0: there are none */
	uint32_t	 partitions;
	uint64_t	 opened;	/* last epoch in which all workers had
					   opened their files; 0: any */
	bool		 clean;		/* nothing is in journals */
	struct buf	 topology;	/* of the version that ran last */
	char		*run_dir;	/* "" = none yet */
};
struct loss {
	uint64_t	 time_ns;
	uint32_t	 worker;
	const char	*text;
};

/* Opens or makes the file, checks it, and counts the epoch. */
int	catalog_open(struct catalog *, const char *dir, const char *app,
	    struct err *);
void	catalog_close(struct catalog *);
int	catalog_run_dir(struct catalog *, const char *, struct err *);
/* Workers are about to use their files: nothing is clean from here on. */
int	catalog_begin(struct catalog *, uint32_t workers,
	    uint32_t partitions, struct err *);
/* All workers have opened their files: older ones are copies from now on. */
int	catalog_opened(struct catalog *, struct err *);
int	catalog_topology(struct catalog *, struct slice, struct err *);
int	catalog_clean(struct catalog *, struct err *);
int	catalog_unused(struct catalog *, struct err *);
int	catalog_spread(struct catalog *, uint32_t workers, struct err *);
/* There is no state any more; its files are of an earlier generation. */
int	catalog_discard(struct catalog *, struct err *);
int	catalog_loss(struct catalog *, uint32_t worker, const char *text,
	    struct err *);
int	catalog_losses(struct catalog *, void (*)(const struct loss *, void *),
	    void *, struct err *);
/*
 * Rename and drop states in the workers' files.  The intent is recorded
 * before the first file is touched and finished by the next start if need be.
 */
int	catalog_rename(struct catalog *, const char *dir,
	    const struct options *, struct slice topology, struct err *);
int	catalog_finish_rename(struct catalog *, const char *dir,
	    struct err *);
void	catalog_remove_old(const struct catalog *, const char *dir,
	    uint32_t workers, uint64_t generation);
/*
 * May the version described by `now` go on with the state of `old`?  State is
 * found by the name of its step.  -1: text says what is missing.  Pure.
 */
int	catalog_compatible(const struct topo *old, const struct topo *now,
	    const struct options *, struct err *);

/* --- child.c: the life of one worker ------------------------------------- */

enum child_role { CHILD_WORKER, CHILD_DESCRIBE, CHILD_SPREAD, CHILD_SPARE };
enum child_state {
	CHILD_NONE,		/* no process, none wanted */
	CHILD_STARTING,		/* it imports, opens its files */
	CHILD_PREPARED,		/* a spare that waits */
	CHILD_OPENED,		/* waits for `run` */
	CHILD_RECOVERING,	/* replays its journal */
	CHILD_RUNNING,
	CHILD_DYING,		/* reaped; descendants are being killed */
	CHILD_WAITING,		/* no process, the next start is put off */
	CHILD_FINISHED		/* ended as told */
};

/* Deaths by own doing without progress, in a row. */
struct crash_loop {
	uint32_t	deaths;
	uint32_t	charged;	/* to a record, beside those */
	uint64_t	best;		/* journal position ever reached */
};
/*
 * Count a death.  charged: a record explains it, which will be set aside; so
 * many that this cannot be so count as others do.  Returns the delay before
 * the next start in ms, or -1: the limit is reached.  Pure.
 */
int64_t	crash_count(struct crash_loop *, bool own_doing, bool charged,
	    uint64_t done, uint32_t limit);
/* Did a process that ended with this wait status do it itself?  Pure. */
bool	crash_own_doing(int status);

struct out_msg;
STAILQ_HEAD(out_queue, out_msg);

struct child {
	struct supervisor	*s;
	enum child_role		 role;
	enum child_state	 state;
	uint32_t		 number;
	uint64_t		 serial;	/* of this life, never reused */
	pid_t			 pid;		/* 0: no process */
	int			 status;	/* of the last death */
	char			*mark;		/* in its environment */

	int			 fd;		/* channel, -1 */
	ev_io			 io;
	ev_timer		 resend;	/* a send the kernel put off */
	struct out_queue	 queue;
	size_t			 queued;	/* messages */
	ev_child		 reaper;
	ev_timer		 timer;		/* DYING, WAITING */

	struct stats		*stats;		/* mapped, kept over lives */
	int			 stats_fd;
	struct crash_loop	 crash;
	uint32_t		 lives;
	uint64_t		 started_ns;
	uint64_t		 turns;		/* seen by the last check */
	uint64_t		 still;		/* checks without a turn */
	bool			 guilty;	/* we kill it for what it did */
	bool			 hung;		/* its loop did not turn */
	uint64_t		 shown;		/* bytes of its stacks */
	uint64_t		 dump;		/* where a hang's begins */
	uint64_t		 oom_kills[2];	/* of its cgroup, at the last
						   check and the one before */
	char			*death;		/* its own doing, and no life
						   after it was told */
	bool			 own;		/* died by its own doing */
	bool			 charged;	/* in a record's user code */
	bool			 adopted;	/* it was a spare, and has not
						   opened its files yet */
	bool			 cold;		/* take no spare next time; a
						   spare: it is not taken */
	bool			 refused;	/* opened with ok 0 */
	bool			 older;		/* ... the catalog is */
	bool			 finished;	/* said so */
	bool			 told_finish;
	uint32_t		 dying_checks;

	bool			 lost;		/* power was, since it wrote */
	uint64_t		 lineage;	/* of its positions */
	uint64_t		 proven;	/* its journal is whole up to */
	uint64_t		 cut;		/* may end there */
	bool			 cut_answered;	/* in this round */

	uint32_t		 conns;		/* handed over in this life */
	uint64_t		*wired;		/* [n] life of the peer that
						   has our other end */
	uint32_t		 fatal_code;	/* 0: said nothing */
	char			*fatal_text;
	char			*open_text;	/* of opened */
	struct reports		*reports;	/* for status */
};

void	child_init(struct child *, struct supervisor *, enum child_role,
	    uint32_t number, uint32_t n);
void	child_fini(struct child *);
void	child_start(struct child *);
void	child_wait(struct child *, double seconds);	/* then start */
void	child_end(struct child *, enum child_state);	/* NONE, FINISHED */
void	child_kill(struct child *);		/* SIGKILL to all of it */
void	child_check(struct child *);		/* once a second */
void	child_run(struct child *);		/* say run */
void	child_finish(struct child *);		/* say finish */
void	child_abort(struct child *);		/* settle and exit */
void	child_read(struct child *, int most);
/* Has a process that takes messages. */
static inline bool
child_alive(const struct child *c)
{
	return (c->state >= CHILD_STARTING && c->state <= CHILD_RUNNING);
}
const char *child_state_name(enum child_state);
const char *child_name(const struct child *, char *, size_t);

/* --- spare.c: processes that wait to be workers --------------------------- */

int	spare_init(struct supervisor *, struct err *);	/* n is known */
void	spare_fini(struct supervisor *);
void	spare_check(struct supervisor *);	/* once a second */
void	spare_update(struct supervisor *);	/* prepare what is missing */
void	spare_kill(struct supervisor *);	/* none is wanted any more */
bool	spare_left(const struct supervisor *);	/* a process of one */
uint32_t spare_prepared(const struct supervisor *);
void	spare_time(struct child *);		/* its delay is over */
void	spare_ready(struct child *, uint64_t import_ns);
void	spare_died(struct child *);		/* nothing of it is left */
/* One takes this worker's place; false: there is none. */
bool	spare_adopt(struct child *);

/* --- connector.c: programs that feed sources and take from sinks --------- */

enum connector_state {
	CONNECTOR_NONE,
	CONNECTOR_RUNNING,
	CONNECTOR_STOPPING,	/* it got SIGTERM */
	CONNECTOR_DYING,	/* reaped; descendants are being killed */
	CONNECTOR_WAITING,	/* the next start is put off */
	CONNECTOR_ENDED,	/* by itself, it has nothing more to do */
	CONNECTOR_FAILED,	/* it is not started again by itself */
	CONNECTOR_STOPPED	/* with the application */
};

struct user {			/* name NULL: ours */
	char	*name;
	char	*home;
	uid_t	 uid;
	gid_t	 gid;
	gid_t	*groups;
	int	 ngroups;
};

/* In its environment: mark, name, address, cookie; and of another user. */
#define CONNECTOR_VARIABLES	4
#define USER_VARIABLES		3

struct connector {
	struct supervisor	*s;
	const struct conf_connector *conf;
	enum connector_state	 state;
	pid_t			 pid;		/* 0: no process */
	int			 status;	/* of the last death */
	char			*mark;		/* in its environment */
	char			*variable[CONNECTOR_VARIABLES +
				    USER_VARIABLES];
	char			*python;	/* NULL: none of its own */
	char			*address;
	const char		*cookie;	/* of the topology */
	struct user		 user;

	struct crash_loop	 crash;
	uint32_t		 lives;
	uint64_t		 started_ns;
	uint64_t		 oom_kills;	/* of its cgroup, before it */
	bool			 again;		/* the operator said restart */
	char			*why;		/* it has failed */
	ev_child		 reaper;
	ev_timer		 timer;	/* STOPPING, DYING, WAITING */

	int			 out;		/* what it writes, -1 */
	ev_io			 io;
	struct buf		 text;		/* of an unfinished line */
	char			*last;		/* line */
	uint64_t		 second;	/* whose lines are counted */
	uint32_t		 lines;
};

/* Find out what they serve; the topology is known. */
int	connectors_init(struct supervisor *, struct err *);
void	connectors_fini(struct supervisor *);
void	connectors_start(struct supervisor *);	/* who was not yet */
void	connectors_stop(struct supervisor *);	/* for good */
bool	connectors_left(const struct supervisor *);	/* a process of one */
void	connectors_status(const struct supervisor *, struct buf *);
/* pid: the process that is ended, 0: there was none. */
int	connector_restart(struct supervisor *, struct slice name, pid_t *pid,
	    struct err *);
bool	connector_is(const struct supervisor *, pid_t);

/* --- spawn.c ------------------------------------------------------------- */

/* Path of the worker's program, owned by the caller. */
char	*spawn_program(bool trust_environment);
/* fork, own session, exec; channel, pid and mark are set in the child. */
int	spawn_worker(struct child *, struct err *);
int	spawn_stats(struct child *, struct err *);
/* Another program: own session, standard output and error are `output`, no
 * other descriptor, it dies with us.  -1: err says why. */
struct process {
	char		**argv;
	char		**env;
	const struct user *user;		/* NULL: ours */
	int		 output;
	int		 cgroup;		/* -1: none */
};
pid_t	spawn_process(const struct process *, struct err *);
/* What marks a process of this serial number; owned by the caller. */
char	*spawn_mark(const struct supervisor *, uint64_t serial);
/* Our environment with these; the strings stay where they are. */
char	**spawn_environment(char *const *variables, size_t n);
/* Kill what is left of a reaped child's process group and session, and what
 * escaped from it; false while something is still there. */
bool	spawn_gone(struct child *);
bool	spawn_stopped(pid_t);		/* by a signal or a debugger */
bool	spawn_group_gone(const struct supervisor *, pid_t leader,
	    const char *mark);
void	spawn_record(struct supervisor *);	/* workers.pids */
/* A process's line in /proc, -1: it is none.  A line of workers.pids.  Pure. */
struct proc_stat {
	char		state;
	pid_t		session;
	uint64_t	start;		/* clock ticks since boot */
};
int	spawn_parse_stat(const char *text, struct proc_stat *);
bool	spawn_parse_record(const char *line, pid_t *, uint64_t *start);
/* What its interpreter wrote of stacks, behind so many bytes; owned by the
 * caller, NULL: nothing more. */
char	*spawn_stack(const struct child *, uint64_t from);
void	spawn_stack_forget(const struct child *);
/* Kill what an earlier supervisor of this state directory left. */
int	spawn_leftovers(struct supervisor *, struct err *);

/* --- cgroup.c: one for each, if the operator gave a place ----------------- */

int	cgroup_open(struct child *, struct err *);
/* A process that runs already joins; -1: it does not. */
int	cgroup_join(struct child *, pid_t, struct err *);
void	cgroup_check(const struct child *);
uint64_t cgroup_oom_kills(const struct child *);
uint64_t cgroup_count(const char *text);	/* what its file says.  Pure */
void	cgroup_close(struct child *);
int	cgroup_connector(const struct supervisor *,
	    const struct conf_connector *, struct err *);
uint64_t cgroup_connector_kills(const struct supervisor *,
	    const struct conf_connector *);
void	cgroup_connector_close(const struct supervisor *,
	    const struct conf_connector *);

/* --- channel.c: messages to a worker ------------------------------------- */

#define CHANNEL_MAX	(1 << 18)	/* messages in one queue */

/* Queue a frame.  fd is borrowed (-1: none). */
void	channel_send(struct child *, const struct buf *, int fd);
/* As channel_send; the descriptor is closed when sent or dropped.  It
 * replaces a queued one for the same peer. */
void	channel_send_peer(struct child *, const struct buf *, int fd,
	    uint32_t peer);
/* The descriptor is that of a held connection; dropped with it. */
void	channel_send_held(struct child *, const struct buf *, uint64_t id);
void	channel_open(struct child *, int fd);
void	channel_close(struct child *);		/* queue dropped */
/* The first one gets the channel of the second, which has none then. */
void	channel_take(struct child *, struct child *);
/* One message into buf: 1, 0 closed, -1 errno. */
int	channel_receive(int fd, struct buf *);

/* --- wire.c -------------------------------------------------------------- */

/* Fresh socketpairs between this worker and every living one. */
void	wire_child(struct child *);
void	wire_retry(struct supervisor *);	/* pairs that failed before */

/* --- hold.c: duplicates of connections ----------------------------------- */

struct held {
	uint64_t	 id;
	bool		 is_sink;
	bool		 stored;	/* in systemd's store */
	uint32_t	 worker;
	uint32_t	 index;		/* of source or sink */
	uint64_t	 baseline;	/* sinks */
	int		 fd;		/* owned */
	char		 remote[64];
	UT_hash_handle	 hh;
};

void		 hold_init(struct supervisor *);	/* n, topo known */
void		 hold_fini(struct supervisor *);	/* drops all */
struct held	*hold_find(struct supervisor *, uint64_t id);
/* Takes the descriptor.  id 0: a new one. */
struct held	*hold_take(struct supervisor *, bool is_sink, uint64_t id,
		    uint32_t worker, uint32_t index, uint64_t baseline,
		    int *fd, const char *remote);
void		 hold_send(struct held *, struct supervisor *);
void		 hold_resend(struct child *);	/* to a new life */
struct held	*hold_sink(struct supervisor *, uint32_t worker,
		    uint32_t sink);
/* Client connections of a source, of one worker or of all. */
uint32_t	 hold_count(const struct supervisor *, uint32_t source,
		    uint32_t worker);
uint32_t	 hold_count_all(const struct supervisor *, uint32_t source);
uint32_t	 hold_count_sinks(const struct supervisor *, uint32_t sink);
/* shutdown(2), close, out of the store. */
void		 hold_drop(struct supervisor *, struct held *,
		    const char *why);
/* What a life that remembers nothing cannot go on with. */
void		 hold_drop_sinks(struct child *);
/* Sizes of the buffer for hold_name. */
#define HOLD_NAME	128
void		 hold_name(const struct held *, char name[HOLD_NAME]);
/* A name of the store: 0 and the fields, or -1.  Pure. */
int		 hold_parse(const char *name, struct held *);

/* --- listen.c: clients and receivers ------------------------------------- */

struct listener {
	struct supervisor	*s;
	uint32_t		 source;
	int			 fd;
	char			*store;		/* its name there; NULL: not
						   there, "": not ours */
	ev_io			 io;
	TAILQ_ENTRY(listener)	 link;
};
TAILQ_HEAD(listeners, listener);

struct addrinfo;
struct attempt;				/* of an outgoing connection */
TAILQ_HEAD(attempts, attempt);

int	listen_open(struct supervisor *, struct err *);
void	listen_close(struct supervisor *);
void	listen_update(struct supervisor *);	/* accept where it may be */
void	listen_init(struct supervisor *);
/* A worker wants a connection to its sink's receiver. */
void	listen_connect(struct child *, uint32_t sink);
void	listen_cancel(struct supervisor *);	/* all attempts */
/* "host:port" or "[host]:port"; host is owned by the caller. */
int	address_parse(const char *text, char **host, uint32_t *port,
	    struct err *);
int	address_look_up(const char *host, uint32_t port, int flags,
	    struct addrinfo **);
void	address_text(const struct sockaddr *, socklen_t, char *, size_t);
/* Is this socket connected to itself? */
bool	address_is_self(int fd);
/* A listening socket; -1 with errno. */
int	address_listen(const struct addrinfo *, const char *what,
	    struct err *);

/* tcpcheck.c: do this kernel's counters say what was read and sent? */
bool	tcpcheck_exact(void);

/* --- drain.c: when is nothing under way?  Pure. -------------------------- */

struct drain_answer {
	bool		answered;
	bool		idle;
	bool		sinks_empty;
	uint64_t	tail;
};
struct drain {
	uint32_t		 n;
	uint32_t		 round;
	struct drain_answer	*now;		/* [n] */
	struct drain_answer	*before;	/* [n] of the last round */
	bool			 have_before;
	bool			 quiet;
	bool			 empty;		/* quiet, and sinks too */
};

void	drain_init(struct drain *, uint32_t n);
void	drain_fini(struct drain *);
uint32_t drain_next(struct drain *);		/* begin a round: its number */
void	drain_answer(struct drain *, uint32_t worker,
	    const struct msg_drained *);
/* A worker was replaced: what was seen counts no more. */
void	drain_forget(struct drain *, uint32_t worker);
bool	drain_complete(const struct drain *);	/* every worker answered */
enum drain_do { DRAIN_WAIT, DRAIN_FINISH };
/* stopped_ms: since the stop began. */
enum drain_do drain_decide(const struct drain *, int64_t stopped_ms,
	    int64_t stop_timeout_ms, bool must_be_quiet);

/* --- cut.c: after a power loss -------------------------------------------- */

enum cut_do { CUT_WAIT, CUT_DONE, CUT_REFUSED };

bool	cut_needed(const struct supervisor *);
void	cut_begin(struct supervisor *);		/* all have opened */
void	cut_forget(struct supervisor *);	/* one has died */
enum cut_do cut_answer(struct child *, const struct msg_cutoff *);

/* --- ctl.c: the operator ------------------------------------------------- */

struct ctl_conn;
TAILQ_HEAD(ctl_conns, ctl_conn);

int	ctl_open(struct supervisor *, struct err *);
void	ctl_close(struct supervisor *);		/* answers those who wait */
void	ctl_take(struct supervisor *, int fd);	/* somebody who may talk */
void	ctl_checkpointed(struct child *, const struct msg_checkpointed *);
void	ctl_answer(struct child *, const struct msg_answer *);
void	ctl_child_died(struct child *);
void	ctl_child_ready(struct child *);
void	ctl_put_back(struct supervisor *, const struct msg_putback_done *);
void	ctl_status(struct supervisor *, struct buf *);
/* A JSON string with its quotes; what is not UTF-8 becomes U+FFFD. */
void	ctl_json_str(struct buf *, struct slice);

/* --- stream.c: sockets of others than workers ---------------------------- */

/* Send what goes without waiting; -1: errno, the connection is of no use. */
int	stream_flush(int fd, struct buf *out);

/* --- external.c: the external channel, operators' programs over TCP ------ */

#define EXTERNAL_HEAD	6		/* u32 size, u16 id */
#define EXTERNAL_FDS	72		/* connections, listeners */
#define EXTERNAL_MOST	65536		/* bytes that size may count */

/* Requests; what is answered to id has id + 1 but for those named here. */
enum external_id {
	EXT_PRINT = 1, EXT_ROTATE = 2, EXT_SHUTDOWN = 3, EXT_SHRINK = 4,
	EXT_SHRINK_ANSWER = 5, EXT_SHRINK_ERROR = 6, EXT_PARTITIONS = 7,
	EXT_STATUS = 9, EXT_STATUS_NOT_YET = 11, EXT_PARTITION_COUNT = 12,
	EXT_SOURCES = 14, EXT_REPORT = 16, EXT_KEYS = 17, EXT_STATELESS = 19,
	EXT_KEY_COUNT = 21, EXT_STATELESS_COUNT = 23, EXT_CLUSTER_COUNT = 25
};
struct external;			/* the listeners and who has come */
struct ext_conn;			/* a program that has come */

int	external_open(struct supervisor *, struct err *);
void	external_close(struct supervisor *);
/* What external_open does before it listens, and for each who comes. */
struct external *external_begin(struct supervisor *);
void	external_take(struct external *, int fd);
/* Queue an answer; whoever calls may be using the connection. */
void	external_reply(struct ext_conn *, unsigned int id, struct slice);
/* The first frame of in: its whole length, 0: not all of it is there,
 * -1: there is none.  Pure. */
long	external_frame(struct slice in, unsigned int *id,
	    struct slice *payload);

/* --- extquery.c: what is answered there ---------------------------------- */

struct ext_list {			/* keys that workers are asked for */
	unsigned int	 id;		/* request; 0: none is at work */
	uint32_t	 worker;	/* who is asked for what, now */
	uint32_t	 stage;
	uint64_t	 serial;	/* of the question; 0: not asked yet */
	uint64_t	 from;		/* bytes of this list that came */
	uint64_t	 sum;		/* of the workers before, of a count */
	size_t		 at;		/* in text: where this list begins */
	struct buf	 text;
};

/* false: nobody sends this.  A list that is begun is answered later. */
bool	extquery_request(struct supervisor *, struct ext_conn *,
	    struct ext_list *, unsigned int id, struct slice payload);
/* Ask for the next piece; false: the worker cannot be asked now. */
bool	extquery_ask(struct supervisor *, struct ext_list *);
/* An answer; true: that was the last one, text is what is replied. */
bool	extquery_listed(struct supervisor *, struct ext_list *,
	    const struct msg_listed *);
/* What a shrink asks for: 1 a query, 0 the deed, -1: no such JSON.  Pure. */
int	extquery_shrink(struct slice json);
/* An answer has come; a worker has died; it is back. */
void	external_listed(struct child *, const struct msg_listed *);
void	external_child_died(struct child *);
void	external_child_ready(struct child *);

/* --- finite.c: the end of a run whose sources end ------------------------- */

void	finite_start(struct supervisor *);	/* the application runs */
void	finite_stop(struct supervisor *);
void	finite_answer(struct child *, const struct msg_settled *);
void	finite_child_died(struct child *);
void	finite_child_ready(struct child *);

/* --- reports.c: what workers tell for status alone ------------------------ */

bool	report_lag(struct child *, const struct msg_lag *);
bool	report_waits(struct child *, const struct msg_waits *);
void	reports_partitions(struct buf *, const struct supervisor *);
const char *reports_wait(const struct supervisor *, uint32_t sink);
void	reports_fini(struct child *);

/* --- dlq.c: dead letters that are put back ------------------------------- */

enum dlq_state { DLQ_NEW, DLQ_PENDING, DLQ_DONE };

int	dlq_open(struct catalog *, struct err *);
bool	dlq_pending(const struct catalog *);
int	dlq_put_back(struct supervisor *, struct slice id, struct slice text,
	    enum dlq_state *, uint64_t *seq, struct err *);
void	dlq_resend(struct child *);
void	dlq_done(struct child *, const struct msg_putback_done *);
int	dlq_list(const struct catalog *, struct buf *, struct err *);

/* --- metrics.c: a stream of them over TCP -------------------------------- */

struct metrics;
void	metrics_open(struct supervisor *);
void	metrics_close(struct supervisor *);
/* Append what one period of one worker gave, as a frame.  Pure. */
struct metrics_period {
	const char	*application;
	const char	*worker;
	const char	*pipeline;
	const char	*category;
	uint16_t	 id;
	uint64_t	 bin[STATS_BINS];
	uint64_t	 period_ns;
	uint64_t	 end_ns;
};
void	metrics_put(struct buf *, const struct metrics_period *);

/* --- machida.c: what programs that start machida3 expect ----------------- */

bool	machida_is(const struct supervisor *);	/* machida3 started us */
/* A worker's name for others than us; owned by the caller. */
char	*machida_worker(const struct supervisor *, uint32_t);
/* A line for scripts, on standard output; without machida3 nothing. */
void	machida_say(const struct supervisor *, const char *, ...)
	    __attribute__((format(printf, 2, 3)));
void	machida_listening(const struct supervisor *);
/* All workers run, or a sink has been connected: is that everything? */
void	machida_running(struct supervisor *);
void	machida_failed(const struct supervisor *);
/* The exit code that it has for ours. */
int	machida_code(const struct supervisor *);

/* --- usock.c: Unix sockets at paths of any length (wallarooctl, too) ----- */

int	usock_listen(const char *path, struct err *);
int	usock_connect(const char *path, struct err *);
/* The application's control socket; owned by the caller. */
char	*usock_path(const struct conf_app *);

/* --- notify.c: systemd --------------------------------------------------- */

struct notice;
STAILQ_HEAD(notices, notice);

struct inherited {			/* a descriptor that came with us */
	int	 fd;			/* -1: taken */
	char	*name;
};

void	notify_init(struct supervisor *);	/* environment, LISTEN_FDS */
void	notify_start(struct supervisor *);	/* watchdog */
void	notify_send(struct supervisor *, const char *);
void	notify_store(struct supervisor *, const char *name, int fd);
void	notify_unstore(struct supervisor *, const char *name);
void	notify_flush(struct supervisor *);	/* before the end */
void	notify_adopt(struct supervisor *);	/* connections of the store */
bool	notify_is_listener(const char *name);	/* that we stored */
void	notify_close_rest(struct supervisor *);

/* --- place.c: user, directories, lock ------------------------------------ */

int	place_limits(const struct conf_app *, struct err *);
int	place_state(struct supervisor *, struct err *);	/* and drops root */
/* Whom a connector runs as; name stays NULL if as we do. */
int	place_user(const struct supervisor *, const struct conf_connector *,
	    struct user *, struct err *);
void	place_user_free(struct user *);
int	place_become(const struct user *);	/* between fork and exec */
int	place_lock(struct supervisor *, struct err *);
int	place_runtime(struct supervisor *, struct err *);
/* Descriptors that this configuration may need.  Pure. */
uint64_t place_fds(uint64_t workers, uint64_t tcp_sources,
	    uint64_t tcp_sinks, uint64_t connections);
/* The files of a state that is no more; the directory that held it. */
void	place_discard(struct supervisor *);
void	place_forget(struct supervisor *);
int	place_check_fds(struct supervisor *, struct err *);

/* --- supervisor.c: the life of the application --------------------------- */

enum app_state {
	APP_DESCRIBE,		/* a process imports and describes */
	APP_SPREAD,		/* a process spreads keys anew */
	APP_STARTING,		/* workers open their files */
	APP_RECOVERING,		/* they replay */
	APP_RUNNING,
	APP_DRAINING,		/* sources have stopped */
	APP_FINISHING,		/* last checkpoints */
	APP_KILLING,		/* it has failed */
	APP_ENDED
};

struct supervisor {
	struct ev_loop		*loop;
	struct conf_app		 conf;
	struct options		 opt;
	enum app_state		 state;
	bool			 stopping;	/* the operator said so */
	bool			 transit;	/* old number of workers, only
						   to stop them cleanly */
	bool			 ran;		/* has been RUNNING */
	bool			 used;		/* epoch is in workers' files */
	bool			 announced;	/* machida3's scripts know */
	int			 exit_code;
	char			*why;		/* of a failure */
	uint64_t		 drain_ns;	/* when the stop began */
	bool			 was_quiet;	/* nothing inside was left */
	bool			 discard;	/* the state goes, too */
	bool			 discarded;	/* it has gone */
	bool			 recovered;	/* there was a state */

	struct catalog		 catalog;
	int			 lock_fd;
	char			 instance[48];	/* marks our processes */
	char			*run_dir;
	char			*program;	/* of workers */
	bool			 dropped_root;
	bool			 may_become;	/* users of connectors */

	struct topo		 topo;
	struct buf		 topo_bytes;
	struct buf		 conf_bytes;

	bool			 cut_active;	/* rounds are under way */
	bool			 cut_moved;	/* in this round */
	bool			 cut_last;	/* it is the last one */
	uint32_t		 cut_round;

	uint32_t		 n;		/* workers of this run */
	struct child		*child;		/* [n] */
	struct child		 tool;		/* describes or spreads */
	struct child		*spare;		/* [nspares] */
	uint32_t		 nspares;
	struct connector	*connector;	/* [nconnectors] */
	size_t			 nconnectors;
	bool			 connectors_end; /* they were told to */
	bool			 finished;	/* only they are left */
	bool			 described;	/* the topology is here */
	uint64_t		 serial;

	struct held		*held;		/* by id */
	uint64_t		 next_id;
	uint32_t		*conns;		/* [source * n + worker] */
	uint64_t		*sink_conn;	/* [sink * n + worker] id */
	struct listeners	 listeners;
	struct attempts		 attempts;
	uint32_t		*turn;		/* [nsources] round robin */
	ev_timer		 accept_again;
	ev_async		 resolved;

	struct drain		 drain;
	ev_timer		 drain_timer;
	struct drain		 settle;	/* rounds while it runs */
	ev_timer		 look;		/* for the end of sources */
	ev_timer		 abort;
	ev_timer		 check;
	ev_timer		 wire;
	ev_signal		 sig[3];

	int			 ctl_fd;
	ev_io			 ctl_io;
	char			*ctl_path;
	struct ctl_conns	 ctl_conns;
	size_t			 nctl;
	uint64_t		 ctl_serial;
	uint64_t		 checkpoint_id;	/* at work, 0 = none */
	struct external		*external;	/* NULL: none */
	struct metrics		*metrics;	/* NULL: none are sent */

	int			 notify_fd;
	struct sockaddr_storage	 notify_addr;
	socklen_t		 notify_len;
	struct notices		 notices;
	size_t			 nnotices;
	ev_timer		 notify_again;
	ev_timer		 watchdog;
	uint64_t		 watchdog_us;
	struct inherited	*inherited;
	size_t			 ninherited;
};

/* Runs the application to its end; conf and options are owned by the
 * caller's struct.  Returns the exit code. */
int	supervisor_run(struct supervisor *);
const char *app_state_name(enum app_state);
void	app_stop(struct supervisor *);		/* SIGTERM, ctl */
void	app_fail(struct supervisor *, int code, const char *, ...)
	    __attribute__((format(printf, 3, 4)));
/* What a child tells about itself. */
void	app_child_opened(struct child *);
void	app_child_cut(struct child *, const struct msg_cutoff *);
void	app_child_ready(struct child *);
void	app_child_drained(struct child *, const struct msg_drained *);
void	app_child_died(struct child *);		/* nothing of it is left */
void	app_topology(struct child *, struct slice);
void	app_connectors_gone(struct supervisor *);	/* the last of them */

#endif
