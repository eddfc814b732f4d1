/* From a seed to a pipeline, its input and its faults; see plan.h. */
#include <stdlib.h>
#include <string.h>

#include "common/conf.h"
#include "tests/sim/plan.h"

struct plan plan;
struct counts counts;

static uint32_t next_kill;
static uint64_t arm_number;		/* of the kill that is armed */
static bool recovering;			/* a worker was killed just now */

uint64_t
plan_mix(uint64_t a, uint64_t b)
{
	struct rng r = { a * UINT64_C(0x9fb21c651e98df25) ^ b };

	return (rng_next(&r));
}

/* --- the work ------------------------------------------------------------ */

static void
make_shape(struct rng *r)
{
	uint64_t kinds = rng_range(r, 1, 7), sinks = rng_range(r, 1, 3);

	plan.workers = (uint32_t)rng_range(r, 2, WORKERS);
	/* Clients are what is hardest: seldom without. */
	plan.tcp_source = (kinds & 1) != 0 || rng_one_in(r, 2);
	plan.file_source = (kinds & 2) != 0;
	plan.gen_source = (kinds & 4) != 0 && rng_one_in(r, 2);
	if (!plan.tcp_source && !plan.file_source && !plan.gen_source)
		plan.tcp_source = true;
	plan.tcp_sink = (sinks & 1) != 0;
	plan.file_sink = (sinks & 2) != 0;
	plan.single = rng_one_in(r, 2);
	plan.fans = rng_one_in(r, 2);
	plan.nclients = plan.tcp_source ? (uint32_t)rng_range(r, 1, CLIENTS) :
	    0;
	plan.ninputs = (uint32_t)rng_range(r, 300, 420);
}

/* One seed in four has timers, and two in three of these by event time; half
 * of those again nothing that comes from clients, who may be away while others
 * go on: then all is known that each key gives. */
static void
make_timed(struct rng *r)
{
	uint64_t unit = US;

	if (!rng_one_in(r, 4))
		return;
	plan.timed = rng_one_in(r, 3) ? TIMED_PROCESSING : TIMED_EVENT;
	if (plan.timed == TIMED_EVENT && rng_one_in(r, 2)) {
		plan.tcp_source = false;
		plan.nclients = 0;
		plan.gen_source |= !plan.file_source || rng_one_in(r, 2);
	}
	plan.exact = plan.timed == TIMED_EVENT && !plan.tcp_source;
	if (plan.timed == TIMED_PROCESSING)
		unit = 200 * US;
	plan.ttl = rng_range(r, unit, unit * 200);
	plan.delay = rng_range(r, unit, unit * 60);
	plan.lateness = rng_range(r, unit, unit * 30);
	plan.idle = plan.exact ? 0 : rng_range(r, 5, 100) * MS;
}

static void
make_inputs(struct rng *r)
{
	uint32_t where[FROMS], n = 0, i, w, most, base;
	struct input *in;

	for (i = 0; i < plan.nclients; i++)
		where[n++] = i;
	if (plan.file_source)
		where[n++] = FROM_FILE;
	if (plan.gen_source)
		where[n++] = FROM_GEN;
	/* Small records mostly; sometimes large ones, so that rings wrap and
	 * outboxes fill. */
	most = rng_one_in(r, 4) ? 700 : rng_one_in(r, 2) ? 120 : 20;
	for (i = 0; i < plan.ninputs; i++) {
		in = &plan.input[i];
		w = where[rng_below(r, n)];
		plan.from[w][plan.nfrom[w]++] = i;
		base = w * KEYS;
		in->key1 = base + (uint32_t)rng_below(r, KEYS);
		in->key2 = plan.single ? in->key1 * 7 + 1 :
		    (uint32_t)rng_below(r, 10);
		in->amount = (uint32_t)rng_below(r, 1000);
		in->pad = (uint32_t)rng_below(r, most);
		in->dropped = rng_one_in(r, 16);
		in->fan = plan.fans && rng_one_in(r, 4) ? 3 : 1;
	}
}

/* The reference: what each input does to the state of the first step. */
static void
make_reference(void)
{
	struct state st[FROMS * KEYS];
	struct input *in;
	uint32_t w, i, seq;

	memset(st, 0, sizeof(st));
	for (w = 0; w < FROMS; w++)
		for (i = 0; i < plan.nfrom[w]; i++) {
			seq = plan.from[w][i];
			in = &plan.input[seq];
			if (in->dropped)
				continue;
			state_first(&st[in->key1], seq, 0);
			in->v1 = st[in->key1].version;
			in->d1 = st[in->key1].digest;
			in->balance1 = st[in->key1].balance;
		}
}

struct frame_head {
	uint8_t		len[4];		/* big-endian, of what follows */
	uint32_t	seq;
	uint32_t	pad;
};

/* Byte i is seq * 31 + i * 7 + 1: one line of bytes for all, entered where it
 * is seq * 31 + 1, since 183 * 7 is 1 modulo 256. */
const uint8_t *
plan_pad(uint32_t seq)
{
	static uint8_t line[256 + FRAME_MAX];
	uint32_t i;

	/* Its first byte is the last one to be made. */
	for (i = sizeof(line); line[0] == 0 && i-- > 0; )
		line[i] = (uint8_t)(i * 7 + 1);
	return (line + (seq * 31 * 183) % 256);
}

size_t
plan_frame(uint32_t seq, uint8_t *to)
{
	uint32_t pad = plan.input[seq].pad, len = 8 + pad;

	to[0] = (uint8_t)(len >> 24);
	to[1] = (uint8_t)(len >> 16);
	to[2] = (uint8_t)(len >> 8);
	to[3] = (uint8_t)len;
	memcpy(to + 4, &seq, 4);
	memcpy(to + 8, &pad, 4);
	memcpy(to + 12, plan_pad(seq), pad);
	return (12 + pad);
}

/* --- the faults ---------------------------------------------------------- */

static uint64_t
few(struct rng *r, uint64_t most_bits)
{
	return (rng_below(r, UINT64_C(1) << rng_range(r, 1, most_bits)));
}

/* At some points of one phase, in any worker. */
static void
choose_points(struct rng *r, struct killer *h, enum phase phase)
{
	h->phase = (int)phase;
	h->one_in = (uint32_t)rng_range(r, 6, 40);
	h->salt = rng_next(r);
	h->number = -1;
	h->countdown = rng_below(r, 2);
	/* The supervisor has four phases only. */
	if (h->kind == PROC_SUPERVISOR && phase != PHASE_CUTTING)
		h->phase = phase < PHASE_RUNNING ? PHASE_OPENING :
		    phase > PHASE_RUNNING ? PHASE_DRAINING : PHASE_RUNNING;
}

static void
make_kill(struct rng *r, struct kill *k, bool again)
{
	struct killer *h = &k->how;

	memset(k, 0, sizeof(*k));
	h->armed = true;
	h->kind = rng_one_in(r, 4) ? PROC_SUPERVISOR : PROC_WORKER;
	h->number = rng_one_in(r, 4) ? -1 :
	    (int)rng_below(r, plan.workers);
	h->phase = -1;
	h->both = rng_one_in(r, 15);
	h->countdown = few(r, again ? 8 : 12);
	h->power = plan.machine && rng_one_in(r, again ? 2 : 3);
	if (again || !rng_one_in(r, 3))
		choose_points(r, h, PHASE_RUNNING);
	k->again = again;
	/* A death takes a moment until somebody takes its place. */
	k->after = again ? few(r, 20) : few(r, 23);
	if (again && h->power && rng_one_in(r, 2)) {
		/* What the last one has left was hardly looked at. */
		*h = (struct killer){ .armed = true, .power = true, .kind =
		    PROC_WORKER, .number = -1, .phase = PHASE_RUNNING,
		    .countdown = few(r, 12) };
		k->again = false;
	}
	if (rng_one_in(r, 12))
		k->stop_ns = rng_range(r, 1, rng_one_in(r, 4) ? 4000 : 200) *
		    MS;
}

static void
make_faults(struct rng *r)
{
	uint32_t i;
	bool again;

	plan.nkills = 3 + (uint32_t)rng_below(r, 7);
	for (i = 0; i < plan.nkills; i++) {
		again = i > 0 && (i % 2 != 0 || rng_one_in(r, 4));
		make_kill(r, &plan.kill[i], again);
	}
	/* The last one during the stop. */
	if (!rng_one_in(r, 3)) {
		struct kill *k = &plan.kill[plan.nkills - 1];

		k->stop_ns = 0;
		choose_points(r, &k->how, rng_one_in(r, 2) ? PHASE_DRAINING :
		    PHASE_FINISHING);
	}
	if (rng_one_in(r, 6)) {
		plan.space_from = now_ns + few(r, 28);
		plan.space_to = plan.space_from + few(r, 29);
	}
	plan.db_errors = rng_one_in(r, 4) ? (uint32_t)rng_range(r, 2, 20) : 0;
	plan.toomany = rng_one_in(r, 6) ? 10 : 0;
	plan.no_fork = rng_one_in(r, 10) ? 10 : 0;
	plan.refuse = rng_one_in(r, 6) ? 3 : 0;
	plan.resets = plan.tcp_sink && rng_one_in(r, 5);
	plan.middle = rng_one_in(r, 8);
	plan.blind = rng_one_in(r, 4);
	plan.blackout = rng_one_in(r, 24);
	plan.loss = plan.machine ? rng_below(r, LOSSES) : LOSS_ALL;
	plan.loss_worker = (uint32_t)rng_below(r, plan.workers);
	plan.sync_errors = plan.machine && rng_one_in(r, 8) ? 150 : 0;
}

/* Does it ever matter what is on the disk? */
static bool
loses_power(void)
{
	uint32_t i;

	for (i = 0; i < plan.nkills; i++)
		if (plan.kill[i].how.power)
			return (true);
	return (plan.blackout || plan.sync_errors != 0);
}

void
plan_make(uint64_t seed, const char *plant, bool faults)
{
	struct rng r = { plan_mix(seed, 3) }, t = { plan_mix(seed, 4) };
	uint64_t i;

	memset(&plan, 0, sizeof(plan));
	plan.seed = seed;
	plan.faults = faults;
	plan.work.s = plan_mix(seed, 1);
	plan.sched.s = plan_mix(seed, 2);
	for (i = 0; plant != NULL && plant[i] != '\0' &&
	    i < sizeof(plan.plant) - 1; i++)
		plan.plant[i] = plant[i];
	make_shape(&plan.work);
	make_timed(&t);
	make_inputs(&plan.work);
	make_reference();
	if (plan.timed != UNTIMED)
		timed_make();
	/* Near the end of a lap of the ring. */
	plan.start = rng_one_in(&r, 2) ? rng_below(&r, 1 << 20) & ~7ULL : 0;
	plan.user_ns = (uint32_t)(rng_one_in(&r, 4) ? few(&r, 19) :
	    few(&r, 12));
	plan.pace = 20 * US + rng_below(&r, rng_one_in(&r, 3) ? 100 * US :
	    800 * US);
	plan.checkpoint_ms = (int64_t)rng_range(&r, 10, rng_one_in(&r, 2) ?
	    30 : 300);
	plan.mark = (int64_t)rng_range(&r, 1000, rng_one_in(&r, 2) ? 3000 :
	    30000);
	/* The smallest journal that so many channels may have, or more. */
	plan.journal = rng_one_in(&r, 2) ? 64 << 10 :
	    16 << 10 << (plan.workers - 2);
	if (plan.workers == 4 && plan.journal < 64 << 10)
		plan.journal = 48 << 10;
	plan.preempt = rng_one_in(&r, 3) ? 0 : (uint32_t)rng_range(&r, 4,
	    200);
	plan.eintr = rng_one_in(&r, 2) ? 0 : (uint32_t)rng_range(&r, 5, 100);
	plan.partial = rng_one_in(&r, 3) ? 0 : (uint32_t)rng_range(&r, 1,
	    20);
	plan.latency = (few(&r, 10) + 1) * US;
	plan.network = (few(&r, 11) + 1) * US;
	plan.channel = rng_range(&r, 500, 20000);
	plan.slow = rng_one_in(&r, 5);
	plan.machine = rng_below(&r, 5) < 2;
	plan.after = rng_one_in(&r, plan.machine ? 4 : 16);
	plan.sync_ns = rng_one_in(&r, 2) ? 300 * US : 3 * MS;
	plan.lagging = (uint32_t)rng_below(&r, 2 * plan.workers);
	plan.spares = rng_one_in(&r, 2) ? (uint32_t)rng_range(&r, 1, 2) : 0;
	next_kill = 0;
	arm_number = 0;
	recovering = false;
	if (faults)
		make_faults(&r);
	plan.blackout &= plan.timed == UNTIMED;
	disks = loses_power();
	counts.machines += plan.machine;
	counts.afters += plan.after;
	counts.timed += plan.timed != UNTIMED;
	counts.exact += plan.exact;
}

void
plan_aim(unsigned int place)
{
	struct kill *k = &plan.kill[1];
	unsigned int ph = place / (POINT_KINDS * 2) % PHASES;
	unsigned int end = place / (POINT_KINDS * 2) / PHASES;
	bool power = end == END_POWER || ph == PHASE_CUTTING ||
	    plan.seed % 2 != 0;

	/* The first one makes somebody recover. */
	make_kill(&plan.work, &plan.kill[0], false);
	plan.kill[0].stop_ns = 0;
	plan.kill[0].how.power = power;
	plan.machine |= power;
	plan.blackout = false;
	memset(k, 0, sizeof(*k));
	k->how = (struct killer){ .armed = true, .kind = end == END_POWER ?
	    PROC_WORKER : end, .power = end == END_POWER, .number = -1,
	    .phase = (int)ph, .one_in = EXACTLY,
	    .salt = place % (POINT_KINDS * 2) };
	plan.nkills = 2;
	disks = loses_power();
}

bool
plan_no_space(void)
{
	return (now_ns >= plan.space_from && now_ns < plan.space_to &&
	    rng_one_in(&plan.sched, 2));
}

bool
plan_refuses(void)
{
	return (sometimes(plan.refuse));
}

/* --- killing ------------------------------------------------------------- */

static void arm_event(void *, uint64_t);
static void overdue(void *, uint64_t);

bool
plan_over(void)
{
	return (next_kill >= plan.nkills && (!killer.armed || killer.phase >=
	    PHASE_DRAINING || killer.one_in == EXACTLY));
}

void
plan_arm(void)
{
	if (next_kill < plan.nkills)
		sched_at(now_ns + plan.kill[next_kill].after, arm_event,
		    NULL, 0);
	else if (plan.sync_errors == 0 && !plan.blackout)
		disks = false;		/* the power fails no more */
}

/* Stopped as by SIGSTOP, then goes on. */
static void
stop_somebody(const struct kill *k)
{
	struct proc *p;
	unsigned int i, n = (unsigned int)rng_below(&plan.sched, PROCS);

	for (i = 0; i < PROCS; i++) {
		p = &procs[(i + n) % PROCS];
		if (p->life != PROC_LIVE || p->kind != k->how.kind)
			continue;
		trace("STOPPED process %d for %llu ms", p->pid,
		    (unsigned long long)(k->stop_ns / MS));
		if (p->stopped_until < now_ns + k->stop_ns)
			p->stopped_until = now_ns + k->stop_ns;
		counts.stops++;
		return;
	}
}

/* While somebody recovers, that is of interest. */
static int
phase_of_somebody(enum proc_kind kind)
{
	unsigned int i;

	if (kind == PROC_SUPERVISOR && plan.machine)
		return (rng_one_in(&plan.sched, 2) ? PHASE_OPENING :
		    PHASE_CUTTING);
	if (actors_dark())		/* or as soon as it runs again */
		return ((int)rng_below(&plan.sched, PHASE_RUNNING + 1));
	for (i = 0; i < PROCS; i++)
		if (procs[i].life == PROC_LIVE && procs[i].kind == kind &&
		    !procs[i].tool && procs[i].phase < PHASE_RUNNING)
			return (kind == PROC_SUPERVISOR ? PHASE_OPENING :
			    (int)rng_below(&plan.sched, PHASE_RUNNING));
	return (PHASE_RUNNING);
}

static void
arm_event(void *arg, uint64_t number)
{
	const struct kill *k = &plan.kill[next_kill++];

	(void)arg;
	(void)number;
	if (next_kill > plan.nkills)
		return;			/* they were called off */
	if (k->stop_ns != 0) {
		stop_somebody(k);
		plan_arm();
		return;
	}
	killer = k->how;
	if (k->again)
		killer.phase = phase_of_somebody(killer.kind);
	trace("armed:%s %s %d %s points, phase %s, countdown %llu",
	    killer.power ? " power," : "",
	    killer.kind == PROC_WORKER ? "worker" : "supervisor",
	    killer.number, killer.one_in == 0 ? "all" : "some",
	    killer.phase == -1 ? "any" : phase_names[killer.phase],
	    (unsigned long long)killer.countdown);
	/* What a stop alone reaches may wait for it. */
	arm_number++;
	if (killer.one_in != EXACTLY && (killer.phase < PHASE_DRAINING ||
	    next_kill < plan.nkills))
		sched_at(now_ns + (actors_dark() ? 400 : 30) * MS, overdue,
		    NULL, arm_number);
}

void
plan_arm_late(void)
{
	if (killer.armed)
		return;
	killer = (struct killer){ .armed = true, .kind =
	    rng_one_in(&plan.sched, 2) ? PROC_SUPERVISOR : PROC_WORKER,
	    .number = -1, .phase = -1, .countdown = few(&plan.sched, 9),
	    .power = plan.machine && disks && rng_one_in(&plan.sched, 3) };
	if (rng_one_in(&plan.sched, 2))
		choose_points(&plan.sched, &killer, rng_one_in(&plan.sched,
		    2) ? PHASE_DRAINING : PHASE_FINISHING);
	sched_at(now_ns + 300 * MS, overdue, NULL, ++arm_number);
}

/* The point was not reached. */
static void
overdue(void *arg, uint64_t number)
{
	(void)arg;
	if (!killer.armed || arm_number != number)
		return;
	killer.armed = false;
	plan_arm();
}

static void
passed(unsigned int end, enum phase phase, unsigned int id)
{
	static uint64_t last[ENDS][PHASES][POINT_KINDS * 2];

	if (last[end][phase][id] == counts.seeds + 1)
		return;
	last[end][phase][id] = counts.seeds + 1;
	counts.passed[end][phase][id]++;
}

/* In how many seeds a process came there that can be killed. */
void
plan_passed(const struct proc *p, unsigned int id)
{
	if (p->tool)
		return;
	passed(p->kind, p->phase, id);
	if (disks && plan.machine && p->kind == PROC_WORKER)
		passed(END_POWER, p->phase, id);
}

static void
kill_all(void *arg, uint64_t number)
{
	unsigned int i;

	(void)arg;
	(void)number;
	trace("everybody is killed");
	for (i = 0; i < PROCS; i++)
		if (procs[i].life == PROC_LIVE)
			proc_kill(&procs[i], 9);
}

void
plan_killed(struct proc *p, unsigned int id)
{
	counts.killed[p->kind][p->phase][id]++;
	if (killer.power && p->kind == PROC_WORKER)
		counts.killed[END_POWER][p->phase][id]++;
	counts.crashes++;
	if (p->kind == PROC_SUPERVISOR)
		counts.supervisor_crashes++;
	else if (p->phase < PHASE_RUNNING && p->lives > 0)
		counts.recrashes++;
	killer.armed = false;
	if (killer.power)
		actors_power_loss(p);
	else if (killer.both) {
		counts.alls++;
		sched_at(now_ns, kill_all, NULL, 0);
	}
	plan_arm();
}

void
plan_death(struct proc *p)
{
	actors_death(p);
}

/* --- settings ------------------------------------------------------------ */

void
plan_conf(struct conf_app *c)
{
	static char empty[] = "", name[] = "sim", module[] = "sim",
	    state[] = "/state", dead[] = "/state/dead", run[] = "/run";

	/* What is not set below is empty, or the least that is allowed. */
	memset(c, 0, sizeof(*c));
#define EMPTY_str(field, min)	c->field = empty;
#define EMPTY_list(field, min)
#define EMPTY_num(field, min)	c->field = min;
#define EMPTY_size(field, min)	c->field = min;
#define EMPTY_ms(field, min)	c->field = min;
#define EMPTY_choice(field, min)
#define EMPTY(type, field, key, def, min, max, text)	EMPTY_##type(field, min)
	CONF_TABLE(EMPTY)
	c->name = name;
	c->file = name;
	c->module = module;
	c->workers = plan.workers;
	c->state_directory = state;
	c->durability = plan.machine ? CONF_MACHINE : CONF_PROCESS;
	c->outputs = plan.after ? CONF_AFTER_CHECKPOINT : CONF_AT_ONCE;
	c->runtime_directory = run;
	c->partitions = 16;
	c->journal_size = c->outbox_size = 1 << 20;
	c->outbox_mark = 64 << 10;
	c->max_message = 1024;
	c->checkpoint_interval = plan.checkpoint_ms;
	c->hang_timeout = 2000;
	c->watermark_interval = 20;
	c->stop_timeout = 30000;
	c->restart_limit = 1000;
	c->on_error = CONF_FAIL;
	c->dead_letter_file = dead;
	c->connections = 8;
	c->connector_streams = 1;
	c->connector_timeout = 1000;
	c->kafka_look = 10000;
	c->spares = plan.spares;
	c->log_level = CONF_DEBUG;
}
