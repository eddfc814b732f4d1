/*
 * The simulation: a whole cluster in one process, from a seed.
 *
 * The production code of the worker and the supervisor is compiled a second
 * time with sim_sys.h in front.  Each simulated process is a coroutine with
 * its own stack, heap and static variables, over a small simulated kernel:
 *
 *	sched.c		processes, virtual time, events, when one is killed
 *	kernel.c	descriptors, sockets between processes
 *	tcp.c		connections to the world outside
 *	files.c		files and mappings
 *	disk.c		what a power loss leaves of them
 *	evsim.c		libev over these
 *	world.c		clock, log, what the supervisor asks of its machine
 *	storesim.c	the worker's database
 *	syncsim.c	the thread that syncs files
 *	hostsim.c	a test host in C instead of Python
 *	plan.c		what a seed means: pipeline, input, faults
 *	loss.c		what no setting survives
 *	actors.c	clients, receivers, the init system
 *	oracle.c	was it right?
 *	timed.c		the same, of timers and ttl
 *	dump.c		what reference.py is asked about
 *	sim.c		many seeds
 *
 * Everything random comes from the seed; nothing else may have influence: no
 * addresses, no real time, no state of an earlier seed.
 */
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/buf.h"
#include "tests/sim/points.h"

#define US	UINT64_C(1000)
#define MS	UINT64_C(1000000)
#define SEC	UINT64_C(1000000000)

/* --- random numbers ------------------------------------------------------ */

struct rng { uint64_t s; };

static inline uint64_t
rng_next(struct rng *r)
{
	uint64_t x = r->s += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return (x ^ x >> 31);
}

/* 0 .. n-1 */
static inline uint64_t
rng_below(struct rng *r, uint64_t n)
{
	return ((uint64_t)((unsigned __int128)rng_next(r) * n >> 64));
}

static inline uint64_t
rng_range(struct rng *r, uint64_t from, uint64_t to)
{
	return (from + rng_below(r, to - from + 1));
}

/* True once in n. */
static inline bool
rng_one_in(struct rng *r, uint64_t n)
{
	return (rng_below(r, n) == 0);
}

/* --- processes and time (sched.c) ---------------------------------------- */

#define PROCS		16
#define FDS		128
#define WORKERS		4
#define INODES		256

enum proc_kind { PROC_WORKER, PROC_SUPERVISOR };
enum proc_life { PROC_FREE, PROC_LIVE, PROC_ZOMBIE };

/* Where a worker stands on its way to ordinary work, seen from outside by the
 * messages on its channel; a supervisor by what it has said to systemd. */
enum phase { PHASE_OPENING, PHASE_OPENED, PHASE_CUTTING, PHASE_REPLAYING,
	PHASE_RUNNING, PHASE_DRAINING, PHASE_FINISHING, PHASES };
extern const char *const phase_names[PHASES];

struct file;
struct simloop;

struct proc {
	unsigned int	 slot;
	enum proc_kind	 kind;
	enum proc_life	 life;
	int		 pid;
	int		 parent;
	int		 status;	/* as waitpid gives it */
	uint32_t	 number;	/* worker: from its start message */
	bool		 numbered;
	bool		 tool;		/* describes only */
	bool		 pdeathsig;
	enum phase	 phase;
	unsigned int	 lives;		/* of this worker before this one */
	int		 (*main)(void);

	/* the coroutine */
	void		*sp;
	uint8_t		*stack;
	void		*fake;		/* sanitizers' */
	uint8_t		*statics;	/* when it is not running */

	/* waiting */
	bool		 ready;		/* an event will resume it */
	uint64_t	 turn;		/* counts resumptions: old events
					   are void */
	uint64_t	 stopped_until;	/* SIGSTOP */

	uint8_t		*heap;
	size_t		 heap_used;
	void		*heap_free[28];
	struct file	*fd[FDS];
	struct simloop	*loop;
	char		**env;		/* NULL-terminated NAME=VALUE */
	uint16_t	 maps[INODES];	/* mappings by inode's slot */
	int		 mapped;	/* slot of the last one, -1 */
	uint64_t	 points;	/* passed */
	uint64_t	 died_ns;
};

extern struct proc procs[PROCS];
extern struct proc *current;		/* NULL: the kernel or an actor */
extern uint64_t now_ns;

struct event;
/* Call f at a time; owner's death (by turn of its life) voids it when p. */
void	sched_at(uint64_t when, void (*f)(void *, uint64_t), void *arg,
	    uint64_t number);
void	sched_reset(void);
void	sched_run(void);		/* until sched_stop */
void	sched_stop(void);
struct proc *proc_new(enum proc_kind, int (*main)(void), int parent);
void	proc_free(struct proc *);	/* zombie is reaped */
struct proc *proc_find(int pid);
void	proc_wake(struct proc *, uint64_t delay);
/* The current process gives the processor back until somebody wakes it. */
void	proc_block(void);
void	proc_yield(uint64_t delay);
void	proc_wait(uint64_t ns);		/* as proc_block, at most so long */
void	proc_exit(int status) __attribute__((noreturn));
void	proc_kill(struct proc *, int sig);	/* also the current one */
/* Call a function of a process (as a thread of it would). */
void	proc_call(struct proc *, void (*)(void *), void *);

/*
 * A point where a process may be killed, preempted or be told of a signal:
 * before and after each system call and each change of a mapped file.
 */
void	point(unsigned int kind, bool after);	/* PT_* of points.h */
bool	point_of(struct proc *, unsigned int kind, bool after);
extern const char *const point_names[];

/* Fault schedule: kill when a process has passed so many points. */
struct killer {
	bool		 armed;
	enum proc_kind	 kind;
	int		 number;	/* worker, -1 any */
	uint64_t	 countdown;	/* points that fit */
	int		 phase;		/* only there, -1 any */
	/* Only some points, each chosen with the same chance, however often
	 * it is passed: so that rare ones have their turn.  0: all. */
	uint32_t	 one_in;
	uint64_t	 salt;		/* or EXACTLY this one */
#define EXACTLY		UINT32_MAX
	bool		 both;		/* everybody dies with it */
	bool		 power;		/* the power fails */
};
extern struct killer killer;

/* --- the trace ----------------------------------------------------------- */

extern bool tracing;
extern uint64_t trace_digest;		/* of everything that happened */
void	trace_at(const char *, ...) __attribute__((format(printf, 1, 2)));
#define trace(...)	do { if (tracing) trace_at(__VA_ARGS__); } while (0)
static inline void
digest(uint64_t v)
{
	trace_digest = (trace_digest ^ v) * UINT64_C(0x9fb21c651e98df25);
	trace_digest ^= trace_digest >> 29;
}

/* The seed has failed: say why and end it. */
void	fail(const char *, ...) __attribute__((format(printf, 1, 2)));
extern bool failed;

/* --- descriptors (kernel.c) ---------------------------------------------- */

struct bytes {				/* a queue */
	uint8_t	*p;
	size_t	 head, len, cap;
};
void	bytes_put(struct bytes *, const void *, size_t);
size_t	bytes_get(struct bytes *, void *, size_t);
void	bytes_skip(struct bytes *, size_t);
void	bytes_free(struct bytes *);

enum file_kind { FILE_STREAM, FILE_SEQ, FILE_TCP, FILE_LISTEN, FILE_REG,
	FILE_NOTIFY, FILE_CTL, FILE_NULL, FILE_DIR };
struct seq_msg {
	struct seq_msg	*next;
	struct file	*passed;
	size_t		 len;
	uint8_t		 data[];
};
struct file {
	enum file_kind	 kind;
	int		 refs;
	bool		 nonblock;
	uint32_t	 waiters;	/* processes by slot */
	struct file	*peer;		/* STREAM, SEQ; NULL: closed */
	bool		 reset;		/* ECONNRESET is due */
	struct bytes	 in;		/* STREAM */
	size_t		 room;		/* STREAM: of in; SEQ: messages */
	struct seq_msg	*first, **last;	/* SEQ */
	size_t		 nmsgs;
	struct tcp	*tcp;
	struct inode	*inode;
	bool		 append;
	uint64_t	 off;
	char		 dir[16];	/* DIR */
	struct file	*next;		/* all files */
};
struct file *file_new(enum file_kind);
void	file_ref(struct file *);
void	file_unref(struct file *);
void	file_changed(struct file *);	/* wakes who waits for it */
int	file_events(struct file *);	/* EV_READ, EV_WRITE: what is ready */
int	fd_install(struct proc *, struct file *, int least);
struct file *fd_get(int fd);		/* of current; NULL: EBADF set */
void	fds_close(struct proc *);
void	kernel_reset(void);
/* Sometimes a call is interrupted, or does less than it could. */
bool	sometimes(unsigned int one_in);
size_t	some_of(size_t n);

/* --- connections (tcp.c) ------------------------------------------------- */

struct tcp {
	unsigned int	 id;
	bool		 sink;
	unsigned int	 which;		/* client number */
	/* what the supervisor has made of it */
	uint64_t	 given_id;	/* told a worker, 0: none */
	uint32_t	 worker;
	uint64_t	 forgotten;	/* position of that entry, 0: none */
	struct file	*file;		/* our end; NULL when all closed */
	int		 state;		/* as tcp_info says it */
	int		 error;		/* SO_ERROR */
	bool		 refused;	/* connecting: no */
	bool		 established;

	/* to us */
	struct bytes	 in;
	size_t		 in_room;
	uint64_t	 received;	/* counter of the kernel */
	bool		 fin;		/* theirs has arrived */

	/* from us */
	uint64_t	 base;		/* acked counter before any byte */
	uint64_t	 accepted;	/* bytes that write took */
	uint64_t	 delivered;	/* that reached the other kernel */
	uint64_t	 acked;
	struct bytes	 out;		/* accepted, not delivered */
	size_t		 out_room;
	bool		 our_fin;
	bool		 expected;	/* it came at a stop */
	bool		 dead;		/* reset or both ended */
	bool		 moving;	/* a delivery is scheduled */
	bool		 peer_closed;	/* it answers data with RST */
	void		*actor;
	struct tcp	*next;
};
struct tcp *tcp_new(bool sink, unsigned int which);
void	tcp_reset_by_peer(struct tcp *);
void	tcp_fin_by_peer(struct tcp *);
/* Bytes from the other side arrive; returns how many fit. */
size_t	tcp_arrive(struct tcp *, const void *, size_t);
void	tcp_last_close(struct tcp *);
void	tcp_reset(void);
void	tcp_power_loss(void);		/* nothing of ours is left */
struct tcp *tcp_given(uint64_t id);	/* by the supervisor */
ssize_t	tcp_write(struct file *, const void *, size_t);
ssize_t	tcp_read(struct file *, void *, size_t);
int	tcp_events(const struct tcp *);
/* actors.c */
void	actor_sent(struct tcp *, const uint8_t *, size_t);	/* to it */
void	actor_room(struct tcp *);	/* we have read */
void	actor_closed(struct tcp *, bool reset);	/* by us */
bool	actor_expects_end(void);	/* of connections: a stop */
struct tcp *actor_accept(void);		/* a client waits, or NULL */
bool	actor_waiting(void);
/* A worker recovers: its journal ends there, and has so many bytes of a
 * connection, and of others nothing. */
void	actor_recovers(uint32_t worker, uint64_t tail);
void	actor_has(uint64_t id, uint64_t bytes);
void	actor_has_no_more(uint32_t worker);
extern struct file *listener;

/* --- files (files.c) ----------------------------------------------------- */

struct inode {
	char		 path[96];	/* "": unlinked or memory */
	int		 refs;		/* open files, mapping processes */
	bool		 used;
	uint64_t	 ino;
	uint64_t	 size;
	uint64_t	 dirty_to;	/* not zero up to here, perhaps */
	uint8_t		*base;
	unsigned int	 slot;
	uint8_t		*ring;		/* bytes after the head, twice */
	uint64_t	 ring_size;
	int		 locked_by;	/* pid, 0 */

	/* after a power loss: disk.c */
	char		 disk_path[96];	/* as its directory was synced */
	uint64_t	 disk_size;
	uint8_t		*disk;		/* zeros behind disk_to */
	uint64_t	 disk_to;
	bool		 stale;		/* pages are wrongly called clean */
};
#define INODE_MAX	(UINT64_C(1) << 20)
extern struct inode inodes[INODES];
struct inode *inode_find(const char *path);
struct inode *inode_any(void);	/* NULL: it is gone */
struct inode *inode_new(const char *path);
void	inode_unref(struct inode *);
void	inode_close(struct inode *, struct proc *);	/* locks */
void	inode_write(struct inode *, const void *, size_t, uint64_t off);
void	inode_settle(struct inode *);
void	maps_close(struct proc *);
void	files_reset(void);
void	files_lost(const char *below);
ssize_t	reg_read(struct file *, void *, size_t, uint64_t off);

/* --- what a power loss leaves (disk.c) ----------------------------------- */

extern bool disks;			/* of this seed; else nothing is kept */
void	disk_new(struct inode *);
void	disk_sync(struct inode *);
void	disk_sync_failed(struct inode *);
void	disk_sync_names(const char *dir);
void	disk_written(struct inode *, uint64_t from, uint64_t to);
void	disk_write_back(void);
void	disk_lose(void);

/* --- the rest ------------------------------------------------------------ */

struct simloop *loop_of(struct proc *);
void	loop_child(struct proc *parent, int pid, int status);
void	loop_signal(struct proc *, int sig);
void	loop_free(struct proc *);

int	sim_worker_main(int, char **);	/* worker/main.c's */
int	supervisor_main(void);		/* world.c */
void	world_reset(void);
void	notify_message(const uint8_t *, size_t, struct file *);

/* storesim.c */
void	store_sim_reset(void);
void	store_sim_death(struct proc *);
void	store_sim_power_loss(void);
uint64_t store_sim_commits(uint32_t worker);
uint64_t store_sim_position(uint32_t worker);
void	store_sim_keep(uint32_t worker);	/* a copy */
void	store_sim_put_back(uint32_t worker);
/* Each saved row of a worker: for the oracle. */
void	store_sim_rows(uint32_t worker, void (*)(void *, size_t,
	    struct slice, struct slice), void *);
bool	store_sim_exists(uint32_t worker);
bool	store_sim_clean(uint32_t worker);

#endif
