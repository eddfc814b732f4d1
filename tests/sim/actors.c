/*
 * The world around the cluster: clients that send, receivers that take, the
 * init system that starts the supervisor again, and the one who watches that
 * it comes to an end.
 */
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/sim/plan.h"
#include "tests/sim/sim.h"

#define WATCH_NS	(50 * MS)
#define STALL_NS	(120 * SEC)
#define QUIET_NS	(3 * SEC)
#define RECEIVERS	256
#define ALONE_NS	(1200 * MS)	/* a worker without its supervisor */

struct client {
	unsigned int	 number;
	struct tcp	*tcp;		/* NULL: not connected */
	uint32_t	 next;		/* of its inputs */
	uint32_t	 begin;		/* the first on this connection */
	struct bytes	 frame;		/* begun, not all sent */
	bool		 fin;		/* has said it */
	bool		 stepping;	/* its next step is on its way */
	/* After a power loss: how much of what went this way is left? */
	struct tcp	*last;
	bool		 asks;
	uint32_t	 answered;	/* of its inputs: a sink has them */
	uint32_t	 waits_for;	/* so many before it connects */
};
struct receiver {
	struct bytes	 part;		/* of a record */
	bool		 again;		/* may get what another had */
	uint32_t	 next;		/* oracle.c */
};

static struct client client[CLIENTS];
static struct receiver receiver[RECEIVERS];
static unsigned int nreceivers;
static struct tcp *waiting[CLIENTS * 4];
static unsigned int nwaiting;
static struct proc *supervisor;
static uint64_t progress_ns;		/* when something last happened */
static uint64_t seen_outputs, first_outputs;	/* of all seeds together */
static unsigned int resets_left, restarts;
static bool repeats;			/* a receiver has lost something */
static bool holding;			/* clients wait for the stop */
static bool stopping;			/* the operator has said so */
static bool middle_due, middle;		/* the stop half way */
static bool late_kill;
static bool dark;			/* more is lost than may be */
static bool refused;			/* that was too much */
static bool accepted, accepting;	/* the operator accepts that */
static bool outage;			/* it has, and comes back */
static bool recovering;			/* from that */
static bool file_stale;			/* it is not yet cut */

/* --- clients ------------------------------------------------------------- */

static void
client_connect(struct client *c)
{
	c->tcp = c->last = tcp_new(false, c->number);
	c->tcp->actor = c;
	c->begin = c->next;
	waiting[nwaiting++] = c->tcp;
	trace("client %u connects", c->number);
	if (listener != NULL)
		file_changed(listener);
}

bool
actor_waiting(void)
{
	return (nwaiting > 0);
}

struct tcp *
actor_accept(void)
{
	struct tcp *t;

	if (nwaiting == 0)
		return (NULL);
	t = waiting[0];
	memmove(waiting, waiting + 1, --nwaiting * sizeof(waiting[0]));
	return (t);
}

static void client_step(void *, uint64_t);

static void
client_later(struct client *c, uint64_t ns)
{
	if (!c->stepping)
		sched_at(now_ns + ns, client_step, c, 0);
	c->stepping = true;
}

/* Another connection may come to another worker, and order is promised in
 * one connection only: what is left of the last one shall be through. */
static bool
client_waits(struct client *c)
{
	while (c->answered < c->waits_for && oracle_has(
	    plan.from[c->number][c->answered]))
		c->answered++;
	return (c->answered < c->waits_for && !accepted);
}

static void
client_step(void *arg, uint64_t number)
{
	struct client *c = arg;
	struct tcp *t = c->tcp;
	uint8_t frame[FRAME_MAX];
	uint64_t want;
	size_t n = 0;

	(void)number;
	c->stepping = false;
	if (c->asks)
		return;
	if (c->next == plan.nfrom[c->number] && c->frame.len == 0) {
		if (t != NULL && !c->fin && (c->number & 1) != 0) {
			c->fin = true;
			tcp_fin_by_peer(t);
		}
		return;
	}
	if (t == NULL && client_waits(c)) {
		client_later(c, MS);
		return;
	}
	if (t == NULL && !holding)
		client_connect(c);
	else if (t != NULL && t->established) {
		want = 1 + rng_below(&plan.sched, 900);
		while (c->frame.len < want && !holding &&
		    c->next < plan.nfrom[c->number])
			bytes_put(&c->frame, frame, plan_frame(
			    plan.from[c->number][c->next++], frame));
		if (want > c->frame.len)
			want = c->frame.len;
		n = tcp_arrive(t, c->frame.p + c->frame.head, want);
		if (n > 0)
			trace("client %u sends %zu", c->number, n);
		bytes_skip(&c->frame, n);
	}
	client_later(c, rng_below(&plan.sched, plan.pace) + (n > 0 ? 2 * US :
	    c->tcp != NULL && c->tcp->established ? 200 * US : MS));
}

/*
 * What a machine had accepted and not synced is lost with its power, and a
 * client sends it again; from where, somebody tells it who looks into the
 * journals when these are cut.  What a receiver was shown of it must come of
 * what is left: the ledger sees to that.
 */
static void
client_goes_on(struct client *c, uint64_t bytes)
{
	uint8_t frame[FRAME_MAX];
	uint64_t end = 0;

	for (c->next = c->begin; c->next < plan.nfrom[c->number]; c->next++) {
		end += plan_frame(plan.from[c->number][c->next], frame);
		if (end > bytes)
			break;
	}
	trace("client %u: %llu bytes are left, it goes on at its input %u",
	    c->number, (unsigned long long)bytes, c->next);
	c->asks = false;
	c->last = NULL;
	c->waits_for = c->next;
	client_later(c, rng_below(&plan.sched, 5 * MS));
}

void
actor_recovers(uint32_t worker, uint64_t tail)
{
	struct client *c;

	for (c = client; c < client + plan.nclients; c++)
		if (c->asks && c->last->given_id != 0 && c->last->worker ==
		    worker && c->last->forgotten != 0 &&
		    c->last->forgotten <= tail)
			client_goes_on(c, c->last->received - c->last->fin);
}

void
actor_has(uint64_t id, uint64_t bytes)
{
	struct client *c;

	for (c = client; c < client + plan.nclients; c++)
		if (c->asks && c->last->given_id == id)
			client_goes_on(c, bytes);
}

void
actor_has_no_more(uint32_t worker)
{
	struct client *c;

	for (c = client; c < client + plan.nclients; c++)
		if (c->asks && c->last->worker == worker)
			client_goes_on(c, 0);
}

static void
client_power_loss(struct client *c)
{
	bytes_skip(&c->frame, c->frame.len);
	c->tcp = NULL;
	c->fin = false;
	c->asks = c->last != NULL;
	if (c->asks && c->last->given_id == 0)
		client_goes_on(c, 0);
}

void
actor_room(struct tcp *t)
{
	(void)t;			/* it looks again soon anyway */
}

/* Everything that clients have sent is read. */
static bool
clients_settled(void)
{
	unsigned int i;

	for (i = 0; i < plan.nclients; i++)
		if (client[i].frame.len > 0 || (client[i].tcp != NULL &&
		    client[i].tcp->in.len > 0))
			return (false);
	return (true);
}

/* Between accept(2) and the store a connection dies with the supervisor;
 * nothing of it was read. */
static bool
lost_at_once(struct client *c)
{
	if (c->tcp->received - c->tcp->fin != c->tcp->in.len)
		return (false);
	trace("client %u was closed before anything was read", c->number);
	c->next = c->begin;
	bytes_skip(&c->frame, c->frame.len);
	c->tcp = NULL;
	c->fin = false;
	client_later(c, MS);
	return (true);
}

static void
client_closed(struct client *c)
{
	if (!c->tcp->expected && lost_at_once(c))
		return;
	if (!c->fin && !c->tcp->expected && !dark)
		fail("the connection of client %u was closed, it was to stay",
		    c->number);
	if (c->tcp->in.len > 0 && !dark)
		fail("client %u: %zu bytes were accepted and never read",
		    c->number, c->tcp->in.len);
	c->tcp = NULL;
}

/* --- receivers ----------------------------------------------------------- */

void
actor_sent(struct tcp *t, const uint8_t *data, size_t n)
{
	struct receiver *r = t->actor;
	uint32_t len;

	if (!t->sink || dark)
		return;
	if (r == NULL) {
		if (nreceivers == RECEIVERS) {
			fail("more than %d connections to receivers",
			    RECEIVERS);
			return;
		}
		r = t->actor = &receiver[nreceivers++];
		r->again = repeats;
		r->next = 0;
		r->part.len = r->part.head = 0;
	}
	bytes_put(&r->part, data, n);
	while (r->part.len >= sizeof(len)) {
		memcpy(&len, r->part.p + r->part.head, sizeof(len));
		if (len < sizeof(struct output) || len > FRAME_MAX) {
			fail("a receiver gets garbage");
			return;
		}
		if (r->part.len < len)
			return;
		oracle_received(t->worker, r->part.p + r->part.head, len,
		    r->again, &r->next);
		bytes_skip(&r->part, len);
	}
}

bool
actor_expects_end(void)
{
	return (stopping);
}

void
actor_closed(struct tcp *t, bool reset)
{
	struct receiver *r = t->actor;

	trace("tcp %u: closed by us%s", t->id, reset ? " (RST)" : "");
	if (!t->sink) {
		if (t->actor != NULL)
			client_closed(t->actor);
		return;
	}
	/* What was not acknowledged comes again. */
	if (reset || (r != NULL && r->part.len > 0) || t->acked <
	    t->delivered)
		repeats = true;
}

/* One of the receivers goes away, in one of the ways that there are. */
static void
reset_event(void *arg, uint64_t number)
{
	struct tcp *found = NULL;
	unsigned int fd, i;

	(void)arg;
	(void)number;
	for (i = 0; i < PROCS; i++)
		for (fd = 0; fd < FDS && procs[i].life == PROC_LIVE; fd++) {
			struct file *f = procs[i].fd[fd];

			if (f != NULL && f->tcp != NULL && f->tcp->sink &&
			    f->tcp->established && !f->tcp->dead &&
			    (found == NULL || rng_one_in(&plan.sched, 3)))
				found = f->tcp;
		}
	if (found != NULL) {
		repeats = true;
		switch (rng_below(&plan.sched, 3)) {
		case 0:
			tcp_reset_by_peer(found);
			break;
		case 1:
			tcp_fin_by_peer(found);
			found->peer_closed = true;
			break;
		default:
			tcp_fin_by_peer(found);	/* sends no more, reads */
		}
	}
	if (resets_left-- > 1)
		sched_at(now_ns + rng_below(&plan.sched, 60 * MS),
		    reset_event, NULL, 0);
}

/* --- the file sink ------------------------------------------------------- */

static uint64_t file_read;

void
plan_file_written(struct inode *i)
{
	uint32_t len;

	if (strcmp(i->path, "/data/output") != 0 || dark)
		return;
	file_stale = false;
	while (i->size - file_read >= sizeof(len)) {
		memcpy(&len, i->base + file_read, sizeof(len));
		if (len < sizeof(struct output) || len > FRAME_MAX) {
			fail("the output file has garbage at byte %llu",
			    (unsigned long long)file_read);
			return;
		}
		if (i->size - file_read < len)
			return;
		oracle_output(true, i->base + file_read, len, false);
		file_read += len;
	}
}

/* It is going back in its file, to be sure. */
void
plan_file_cut(struct inode *i)
{
	if (strcmp(i->path, "/data/output") != 0 || dark ||
	    i->size >= file_read)
		return;
	file_read = 0;
	oracle_file_again();
	plan_file_written(i);
}

/* --- the init system ----------------------------------------------------- */

static void
start_event(void *arg, uint64_t number)
{
	(void)arg;
	(void)number;
	/* Two reasons may have come together; and who was refused is not
	 * started again by anybody but the operator. */
	if (outage || supervisor != NULL || refused)
		return;
	if ((supervisor = world_start()) == NULL)
		fail("there is no room for another process");
	else
		trace("supervisor starts pid=%d", supervisor->pid);
}

/* Without its supervisor a worker ends within a second. */
static void
alone_event(void *arg, uint64_t pid)
{
	struct proc *p = proc_find((int)pid);

	(void)arg;
	if (p == NULL || p->life != PROC_LIVE || p->kind != PROC_WORKER ||
	    dark)
		return;
	if (p->stopped_until + ALONE_NS > now_ns)
		sched_at(p->stopped_until + ALONE_NS, alone_event, NULL, pid);
	else
		fail("process %d works on without its supervisor", p->pid);
}

/* The stop ends connections; what was sent is read by then. */
static void
let_clients_go(void)
{
	unsigned int i;

	for (i = 0; i < plan.nclients; i++) {
		struct tcp *t = client[i].tcp;

		if (t == NULL || !t->established)
			continue;
		if (t->in.len > 0)
			fail("client %u: %zu bytes were accepted and never "
			    "read", i, t->in.len);
		t->actor = NULL;
		client[i].tcp = client[i].last = NULL;
	}
}

bool
actors_accept_loss(void)
{
	bool yes = accepting;

	accepting = false;		/* for one start */
	return (yes);
}

bool
actors_beyond(void)
{
	return (dark);
}

bool
actors_dark(void)
{
	return (outage);
}

static void
power_back(void *arg, uint64_t number)
{
	(void)arg;
	(void)number;
	outage = false;
	start_event(NULL, 0);
}

/* When the last process is gone. */
static void
disk_loses(void *arg, uint64_t number)
{
	(void)arg;
	(void)number;
	disk_lose();
	store_sim_power_loss();
	if (dark)
		loss_happens();
	if (dark)
		return;
	if (plan.file_sink)
		oracle_file_again();
	file_stale = plan.file_sink;
	file_read = 0;
}

/* p is at work just now, or nobody is. */
static void
lose_power(const struct proc *p)
{
	unsigned int i;

	trace("THE POWER FAILS");
	outage = recovering = true;
	supervisor = NULL;		/* its end is not of interest */
	stopping = false;
	middle_due = middle;
	repeats = true;
	nwaiting = 0;
	tcp_power_loss();
	for (i = 0; i < PROCS; i++)
		if (procs[i].life == PROC_LIVE && &procs[i] != p)
			proc_kill(&procs[i], SIGKILL);
	for (i = 0; i < plan.nclients; i++)
		client_power_loss(&client[i]);
	world_power_loss();
	sched_at(now_ns, disk_loses, NULL, 0);
	sched_at(now_ns + rng_range(&plan.sched, MS, 200 * MS), power_back,
	    NULL, 0);
}

/* With durability = machine it goes on after that as if nothing had been,
 * also when it happens again before that is done. */
void
actors_power_loss(struct proc *p)
{
	counts.losses++;
	counts.relosses += recovering;
	lose_power(p);
}

static void
write_back_event(void *arg, uint64_t number)
{
	(void)arg;
	(void)number;
	disk_write_back();
	sched_at(now_ns + rng_range(&plan.sched, 50 * US, 4 * MS),
	    write_back_event, NULL, 0);
}

/*
 * More is lost than the durability survives.  Without a clean stop only a
 * refusal is right.
 */
static void
black_out(void)
{
	/* Else it is about to start again anyway. */
	if (supervisor == NULL || !loss_ready())
		return;
	counts.blackouts++;
	dark = true;
	killer.armed = false;
	plan.nkills = 0;
	plan.db_errors = plan.no_fork = plan.sync_errors = 0;
	plan.space_to = 0;
	plan.blind = false;
	lose_power(NULL);
}

/* Nobody of before is left. */
static void
accept_event(void *arg, uint64_t number)
{
	const struct inode *file = inode_find("/data/output");

	trace("the operator accepts the loss");
	dark = refused = false;
	accepted = accepting = true;
	counts.accepted++;
	oracle_accept();
	/* What is new comes behind it. */
	file_read = file == NULL ? 0 : file->size;
	start_event(arg, number);
}

/* Refused, as it must be. */
static void
dark_end(const struct proc *p)
{
	if (!WIFEXITED(p->status))
		return;
	if (WEXITSTATUS(p->status) != 100) {
		fail("after a loss the start ended with code %d, not 100",
		    WEXITSTATUS(p->status));
		return;
	}
	middle = middle_due = holding = late_kill = false;
	refused = true;
	world_forget_store();
	sched_at(now_ns + 2 * SEC, accept_event, NULL, 0);
}

/* It works, whatever it had to forget: that may show a little later. */
static void
dark_running(void)
{
	if (!loss_may_be_unseen())
		fail("after a loss it began as if nothing were lost");
	else if (now_ns - progress_ns > SEC)
		sched_stop();
}

static void
supervisor_died(const struct proc *p)
{
	unsigned int i;

	supervisor = NULL;
	progress_ns = now_ns;
	if (dark) {
		dark_end(p);
		return;
	}
	for (i = 0; i < PROCS; i++)
		if (procs[i].life == PROC_LIVE && procs[i].kind ==
		    PROC_WORKER)
			sched_at(now_ns + ALONE_NS, alone_event, NULL,
			    (uint64_t)procs[i].pid);
	if (WIFEXITED(p->status) && WEXITSTATUS(p->status) == 0) {
		world_forget_store();
		if (!stopping)
			fail("the supervisor ended, nobody had asked it to");
		else if (!middle) {
			if (accepted)
				oracle_accepted_final();
			else
				oracle_final();
			sched_stop();
			return;
		}
		counts.middle++;
		let_clients_go();
		middle = stopping = holding = false;
	} else if (WIFEXITED(p->status) && WEXITSTATUS(p->status) != 111)
		fail("the application has stopped with exit code %d",
		    WEXITSTATUS(p->status));
	else {
		stopping = false;
		middle_due = middle;
	}
	if (++restarts > 200)
		fail("the supervisor was started 200 times");
	sched_at(now_ns + rng_range(&plan.sched, MS, sometimes(4) ?
	    2 * SEC : 100 * MS), start_event, NULL, 0);
}

void
actors_death(struct proc *p)
{
	progress_ns = now_ns;
	counts.lives++;
	if (p->kind == PROC_SUPERVISOR && p == supervisor)
		supervisor_died(p);
}

/* --- the one who watches ------------------------------------------------- */

static void
stop_now(void)
{
	if (supervisor == NULL || supervisor->phase != PHASE_RUNNING ||
	    stopping)
		return;
	trace("SIGTERM for the supervisor");
	stopping = true;
	loop_signal(supervisor, SIGTERM);
	if (late_kill)
		plan_arm_late();
	late_kill = false;
}

/* Nobody knows what outputs there are to be. */
static void
stop_when_quiet(void)
{
	unsigned int i;

	for (i = 0; i < plan.nclients; i++)
		if (client[i].next < plan.nfrom[i])
			return;
	if (clients_settled() && now_ns - progress_ns > QUIET_NS)
		stop_now();
}

static void
watch_event(void *arg, uint64_t number)
{
	char text[256];

	(void)arg;
	(void)number;
	if (supervisor != NULL && supervisor->phase == PHASE_RUNNING) {
		recovering = false;
		/* What was not sure is cut off by now. */
		if (file_stale)
			plan_file_written(inode_find("/data/output"));
	}
	if (counts.outputs != seen_outputs) {
		seen_outputs = counts.outputs;
		progress_ns = now_ns;
	}
	if (now_ns - progress_ns > STALL_NS) {
		oracle_missing(text, sizeof(text));
		fail("nothing has happened for %llu s: %s", (unsigned long
		    long)(STALL_NS / SEC), text);
		return;
	}
	if (dark && supervisor != NULL && supervisor->phase ==
	    PHASE_RUNNING)
		dark_running();
	if (plan.blackout && !dark && !accepted && !stopping &&
	    seen_outputs > first_outputs && rng_one_in(&plan.sched, 2))
		black_out();
	else if (dark)
		;
	else if (accepted)
		stop_when_quiet();
	else if (oracle_complete()) {
		middle = middle_due = false;
		/* The last frames may have no output to wait for. */
		if (plan_over() && clients_settled())
			stop_now();
	} else if (middle_due && seen_outputs > first_outputs &&
	    !stopping) {
		middle = holding = true;
		if (clients_settled()) {
			stop_now();
			middle_due = !stopping;
		}
	}
	sched_at(now_ns + WATCH_NS, watch_event, NULL, 0);
}

void
actors_reset(void)
{
	unsigned int i;

	for (i = 0; i < CLIENTS; i++)
		bytes_skip(&client[i].frame, client[i].frame.len);
	for (i = 0; i < nreceivers; i++)
		bytes_skip(&receiver[i].part, receiver[i].part.len);
	nreceivers = nwaiting = restarts = 0;
	supervisor = NULL;
	progress_ns = now_ns;
	seen_outputs = first_outputs = counts.outputs;
	repeats = holding = stopping = middle = dark = outage = false;
	recovering = file_stale = refused = false;
	accepted = accepting = false;
	loss_reset();
	file_read = 0;
}

void
actors_start(void)
{
	uint8_t frame[FRAME_MAX];
	struct inode *file = NULL;
	uint64_t off = 0;
	uint32_t i;
	size_t n;

	for (i = 0; i < plan.nclients; i++) {
		client[i].number = i;
		client[i].tcp = NULL;
		client[i].next = 0;
		client[i].fin = client[i].asks = client[i].stepping = false;
		client[i].last = NULL;
		client[i].answered = client[i].waits_for = 0;
		client_later(&client[i], rng_below(&plan.sched, 20 * MS));
	}
	if (plan.file_source && (file = inode_new("/data/input")) != NULL)
		for (i = 0; i < plan.nfrom[FROM_FILE]; i++) {
			n = plan_frame(plan.from[FROM_FILE][i], frame);
			inode_write(file, frame, n, off);
			off += n;
		}
	disk_sync_names("/data");
	if (file != NULL)
		disk_sync(file);
	middle_due = plan.middle;
	resets_left = plan.resets ? 3 : 0;
	late_kill = plan.faults && rng_one_in(&plan.sched, 2);
	if (resets_left > 0)
		sched_at(now_ns + rng_below(&plan.sched, 100 * MS),
		    reset_event, NULL, 0);
	if (disks)
		write_back_event(NULL, 0);
	start_event(NULL, 0);
	plan_arm();
	sched_at(now_ns + WATCH_NS, watch_event, NULL, 0);
}
