/* Many seeds, or one with its trace. */
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/plan.h"
#include "tests/sim/sim.h"

#define BATCH		20000		/* seeds between two notes */
#define JOBS		64
#define SHOWN		5		/* failures that are told */

bool tracing;
uint64_t trace_digest;
static uint64_t seed_now;
static char why[400];

struct job {
	struct counts	counts;
	uint64_t	nfailed;
	struct {
		uint64_t seed;
		char	 why[400];
	}		failure[SHOWN];
};
static struct options {
	uint64_t	 first, seeds;
	unsigned int	 jobs;
	const char	*plant;
	const char	*state;		/* file to go on from */
	const char	*dump;		/* file for dump.c, NULL: none */
	uint64_t	 after;		/* seeds to run before the one */
	int		 aim;		/* a kill at this place, -1 none */
	bool		 one, until_found;
} opt = { .seeds = 1000, .jobs = 1, .aim = -1 };
static const char *program;

#ifdef WALLAROO_COVERAGE
/* A process that ends at once would not say which lines it has seen. */
void	__gcov_dump(void);
#else
#define __gcov_dump()	((void)0)
#endif

struct saved {
	uint64_t	magic;
	uint64_t	program;	/* changes with each build */
	uint64_t	first, seeds, at, nfailed;
	double		seconds;
	struct counts	counts;
};
#define SAVED_MAGIC	UINT64_C(0x7374617465736d31)

/* --- one seed ------------------------------------------------------------ */

void
trace_at(const char *fmt, ...)
{
	const struct proc *p = current;
	va_list ap;

	printf("%11.6f ", (double)(now_ns - 1000 * SEC) / 1e9);
	if (p == NULL)
		printf("%-14s", "world");
	else if (p->kind == PROC_SUPERVISOR)
		printf("supervisor/%-3d", p->pid);
	else if (p->tool)
		printf("describes/%-4d", p->pid);
	else
		printf("worker %u/%-5d", p->number, p->pid);
	printf(" ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
}

void
fail(const char *fmt, ...)
{
	va_list ap;

	if (failed)
		return;
	failed = true;
	va_start(ap, fmt);
	(void)vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	trace("FAILED: %s", why);
}

static void
replay_command(FILE *f, uint64_t seed)
{
	(void)fprintf(f, "%s --seed=%" PRIu64 "%s%s --trace", program, seed,
	    opt.plant == NULL ? "" : " --plant=", opt.plant == NULL ? "" :
	    opt.plant);
	if (opt.aim != -1)
		(void)fprintf(f, " --aim=%d", opt.aim);
}

/* Whatever goes wrong, the seed is told. */
static void
on_fault(int sig)
{
	static char stack_text[] = "the program itself died";

	(void)fprintf(stderr, "seed %" PRIu64 ": %s of signal %d\n  replay: ",
	    seed_now, stack_text, sig);
	replay_command(stderr, seed_now);
	(void)fprintf(stderr, "\n");
	_exit(3);
}

static void
catch_faults(void)
{
	static char room[64 * 1024];
	static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGABRT,
	    SIGALRM };
	stack_t ss = { .ss_sp = room, .ss_size = sizeof(room) };
	struct sigaction sa = { .sa_handler = on_fault, .sa_flags =
	    SA_ONSTACK | (int)SA_RESETHAND };
	size_t i;

	(void)sigaltstack(&ss, NULL);
	for (i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		(void)sigaction(signals[i], &sa, NULL);
}

static bool
run_once(uint64_t seed, bool faults)
{
	sched_reset();
	plan_make(seed, opt.plant, faults);
	if (opt.aim != -1 && faults)
		plan_aim((unsigned int)opt.aim);
	tcp_reset();
	kernel_reset();
	files_reset();
	world_reset();
	store_sim_reset();
	oracle_reset();
	actors_reset();
	trace_digest = seed;
	why[0] = '\0';
	if (opt.dump != NULL && faults)
		dump_open(opt.dump);
	actors_start();
	sched_run();
	dump_close(plan.blackout ? "dark" : "failed");
	counts.virtual_ms += (now_ns - 1000 * SEC) / MS;
	return (!failed);
}

/* Deadlines of a seed in real time: an endless loop is a failure. */
#define SEED_SECONDS	60

static bool
run_seed(uint64_t seed)
{
	uint64_t faulty;
	bool ok;

	seed_now = seed;
	(void)alarm(tracing ? 0 : SEED_SECONDS);
	ok = run_once(seed, true);
	counts.seeds++;
	counts.inputs += plan.ninputs;
	if (ok && seed % 16 == 0 && !plan.blackout) {
		faulty = oracle_digest();
		counts.goldens++;
		ok = run_once(seed, false);
		if (ok && oracle_digest() != faulty) {
			fail("the run without faults gives other histories");
			ok = false;
		}
	}
	return (ok);
}

/* --- many ---------------------------------------------------------------- */

static void
add(struct counts *sum, const struct counts *c)
{
	uint64_t *to = (uint64_t *)(void *)sum;
	const uint64_t *from = (const uint64_t *)(const void *)c;
	size_t i;

	for (i = 0; i < sizeof(*c) / sizeof(*to); i++)
		to[i] += from[i];
}

static void
run_job(struct job *j, uint64_t first, uint64_t end, unsigned int step)
{
	uint64_t seed;

	catch_faults();
	memset(&counts, 0, sizeof(counts));
	for (seed = first; seed < end; seed += step) {
		if (run_seed(seed))
			continue;
		if (j->nfailed < SHOWN) {
			j->failure[j->nfailed].seed = seed;
			(void)snprintf(j->failure[j->nfailed].why,
			    sizeof(j->failure[0].why), "%s", why);
		}
		j->nfailed++;
		if (opt.until_found || j->nfailed == 100)
			break;
	}
	j->counts = counts;
}

/* -1: a job has died. */
static int
run_batch(struct job *jobs, uint64_t first, uint64_t end)
{
	pid_t pid[JOBS];
	unsigned int i;
	int status, r = 0;

	memset(jobs, 0, JOBS * sizeof(*jobs));
	(void)fflush(NULL);
	for (i = 0; i < opt.jobs; i++) {
		pid[i] = fork();
		if (pid[i] == 0) {
			run_job(&jobs[i], first + i, end, opt.jobs);
			__gcov_dump();
			_exit(0);
		}
		if (pid[i] == -1) {
			perror("fork");
			exit(2);
		}
	}
	for (i = 0; i < opt.jobs; i++)
		if (waitpid(pid[i], &status, 0) == -1 || !WIFEXITED(status) ||
		    WEXITSTATUS(status) != 0)
			r = -1;
	return (r);
}

static void
add_jobs(struct saved *s, const struct job *jobs)
{
	unsigned int i;

	for (i = 0; i < opt.jobs; i++)
		add(&s->counts, &jobs[i].counts);
}

static uint64_t
show_failures(const struct job *jobs, uint64_t before)
{
	uint64_t n = before;
	unsigned int i, k;

	for (i = 0; i < opt.jobs; i++)
		for (k = 0; k < jobs[i].nfailed; k++, n++) {
			if (n >= SHOWN || k >= SHOWN)
				continue;
			printf("seed %" PRIu64 ": %s\n  replay: ",
			    jobs[i].failure[k].seed, jobs[i].failure[k].why);
			replay_command(stdout, jobs[i].failure[k].seed);
			printf("\n");
		}
	return (n);
}

/* --- the summary --------------------------------------------------------- */

static void
show_coverage(const struct counts *c, unsigned int end)
{
	static const char *const what[ENDS] = { "a worker was killed at",
	    "the supervisor was killed at", "power failed, a worker being at" };
	unsigned int id, ph;

	printf("\n%-33s", what[end]);
	for (ph = 0; ph < PHASES; ph++)
		printf(" %10s", phase_names[ph]);
	printf("\n");
	for (id = 0; id < POINT_KINDS * 2; id++) {
		uint64_t passed = 0;

		for (ph = 0; ph < PHASES; ph++)
			passed += c->passed[end][ph][id];
		if (passed == 0)
			continue;
		printf("%-7s %-24s ", id % 2 ? "after" : "before",
		    point_names[id / 2]);
		for (ph = 0; ph < PHASES; ph++)
			if (c->passed[end][ph][id] == 0)
				printf(" %10s", "-");
			else
				printf(" %10" PRIu64, c->killed[end][ph][id]);
		printf("\n");
	}
}

/* Where so many seeds came, one in 50 at least, a process must have been
 * killed. */
#define OFTEN		400
#define AIMED		1500		/* seeds that try, at most */

/* What chance has left out is aimed at. */
static bool
try_place(struct saved *s, struct job *jobs, unsigned int place)
{
	uint64_t *killed = &s->counts.killed[0][0][0] + place;
	uint64_t first = opt.first + (uint64_t)place * AIMED, i;

	opt.aim = (int)place;
	for (i = 0; i < AIMED && *killed == 0; i += opt.jobs) {
		if (run_batch(jobs, first + i, first + i + opt.jobs) == -1)
			s->nfailed++;
		s->nfailed = show_failures(jobs, s->nfailed);
		add_jobs(s, jobs);
	}
	opt.aim = -1;
	return (*killed > 0);
}

static unsigned int
try_untried(struct saved *s, struct job *jobs)
{
	static const char *const ends[ENDS] = { "worker killed",
	    "supervisor killed", "power failed" };
	const uint64_t *passed = &s->counts.passed[0][0][0];
	unsigned int place, id, n = 0;

	for (place = 0; place < PLACES && opt.plant == NULL; place++) {
		if (passed[place] < OFTEN || passed[place] < opt.seeds / 50 ||
		    (&s->counts.killed[0][0][0])[place] > 0 ||
		    try_place(s, jobs, place))
			continue;
		id = place % (POINT_KINDS * 2);
		printf("%s, %s: never %s %s, where %" PRIu64 " seeds came\n",
		    ends[place / (POINT_KINDS * 2) / PHASES], phase_names[
		    place / (POINT_KINDS * 2) % PHASES], id % 2 ? "after" :
		    "before", point_names[id / 2], passed[place]);
		n++;
	}
	return (n);
}

static void
show_counts(const struct counts *c, double seconds)
{
	printf("seeds %" PRIu64 "  inputs %" PRIu64 "  outputs %" PRIu64
	    "  checkpoints %" PRIu64 "\n", c->seeds, c->inputs, c->outputs,
	    c->checkpoints);
	printf("crashes %" PRIu64 " (of a worker that was recovering %" PRIu64
	    ", of the supervisor %" PRIu64 ", of everybody %" PRIu64
	    ")  processes that were stopped %" PRIu64 "\n", c->crashes,
	    c->recrashes, c->supervisor_crashes, c->alls, c->stops);
	printf("durability = machine %" PRIu64 "  outputs = after-checkpoint "
	    "%" PRIu64 "  power losses %" PRIu64 " (of these while recovering "
	    "from one %" PRIu64 ")\n", c->machines, c->afters, c->losses,
	    c->relosses);
	printf("other losses %" PRIu64 " (refused and then accepted %" PRIu64
	    ")\n", c->blackouts, c->accepted);
	printf("clean stops half way %" PRIu64 "  runs without faults %" PRIu64
	    "  repeats where a receiver went away %" PRIu64 "\n", c->middle,
	    c->goldens, c->repeats);
	printf("with timers and ttl %" PRIu64 " (of these known in all %" PRIu64
	    ")  timers fired %" PRIu64 "  keys that began anew %" PRIu64 "\n",
	    c->timed, c->exact, c->timers, c->expired);
	printf("virtual hours %.1f  seconds %.1f  seeds a second %.0f\n",
	    (double)c->virtual_ms / 3.6e6, seconds,
	    seconds > 0 ? (double)c->seeds / seconds : 0);
}

static double
wall(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return ((double)ts.tv_sec + (double)ts.tv_nsec / 1e9);
}

/* --- a run that goes on where it was left -------------------------------- */

static uint64_t
program_digest(void)
{
	struct stat st;

	if (stat("/proc/self/exe", &st) == -1)
		return (0);
	return ((uint64_t)st.st_mtim.tv_sec * 1000000 + (uint64_t)
	    st.st_mtim.tv_nsec / 1000 + (uint64_t)st.st_size);
}

static bool
load(struct saved *s)
{
	struct saved was;
	FILE *f;
	size_t n;

	if (opt.state == NULL || (f = fopen(opt.state, "r")) == NULL)
		return (false);
	n = fread(&was, sizeof(was), 1, f);
	(void)fclose(f);
	if (n != 1 || was.magic != s->magic || was.program != s->program ||
	    was.first != s->first || was.seeds != s->seeds)
		return (false);
	*s = was;
	return (true);
}

static void
save(const struct saved *s)
{
	FILE *f;

	if (opt.state == NULL || (f = fopen(opt.state, "w")) == NULL)
		return;
	if (fwrite(s, sizeof(*s), 1, f) != 1)
		perror(opt.state);
	(void)fclose(f);
}

static int
run_many(void)
{
	struct job *jobs = mmap(NULL, JOBS * sizeof(*jobs), PROT_READ |
	    PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct saved s = { .magic = SAVED_MAGIC, .program = program_digest(),
	    .first = opt.first, .seeds = opt.seeds, .at = opt.first };
	uint64_t end = opt.first + opt.seeds, upto;
	double begin;
	unsigned int untried;
	int r = 0;

	if (jobs == MAP_FAILED) {
		perror("sim");
		return (2);
	}
	if (load(&s))
		printf("going on after %" PRIu64 " seeds\n", s.at - s.first);
	while (s.at < end && r == 0 && s.nfailed < 100) {
		begin = wall();
		upto = end - s.at < BATCH ? end : s.at + BATCH;
		r = run_batch(jobs, s.at, upto);
		s.nfailed = show_failures(jobs, s.nfailed);
		add_jobs(&s, jobs);
		s.at = upto;
		s.seconds += wall() - begin;
		save(&s);
		if (s.at < end)
			printf("%" PRIu64 " seeds, %" PRIu64 " failed\n",
			    s.at - s.first, s.nfailed);
		(void)fflush(stdout);
		if (opt.until_found && s.nfailed > 0)
			break;
	}
	begin = wall();
	untried = try_untried(&s, jobs);
	s.seconds += wall() - begin;
	show_counts(&s.counts, s.seconds);
	show_coverage(&s.counts, PROC_WORKER);
	show_coverage(&s.counts, PROC_SUPERVISOR);
	show_coverage(&s.counts, END_POWER);
	printf("\n- no process came there; 0 where fewer than %d seeds came, "
	    "or than 1 in 50\n", OFTEN);
	printf("\n%" PRIu64 " seeds passed, %" PRIu64 " failed\n",
	    s.counts.seeds - s.nfailed, s.nfailed);
	if (opt.state != NULL && s.at == end)
		(void)unlink(opt.state);
	return (r == -1 || s.nfailed > 0 || untried > 0);
}

static int
run_one(void)
{
	uint64_t d, i;
	bool ok;

	catch_faults();
	for (i = opt.after; i > 0; i--)
		(void)run_seed(opt.first - i);
	ok = run_seed(opt.first);
	d = trace_digest;
	printf("seed %" PRIu64 ": %s%s digest=%016" PRIx64 "\n", opt.first,
	    ok ? "passed" : "failed: ", why, d);
	return (!ok);
}

static const struct option long_options[] = {
	{ "aim", required_argument, NULL, 'A' },
	{ "after", required_argument, NULL, 'a' },
	{ "dump", required_argument, NULL, 'd' },
	{ "first", required_argument, NULL, 'f' },
	{ "jobs", required_argument, NULL, 'j' },
	{ "plant", required_argument, NULL, 'p' },
	{ "seed", required_argument, NULL, 's' },
	{ "seeds", required_argument, NULL, 'n' },
	{ "state", required_argument, NULL, 'S' },
	{ "trace", no_argument, NULL, 't' },
	{ "until-found", no_argument, NULL, 'u' },
	{ NULL, 0, NULL, 0 }
};

int
main(int argc, char *argv[])
{
	int ch;

	program = argv[0];
	while ((ch = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		switch (ch) {
		case 'A':
			opt.aim = (int)strtol(optarg, NULL, 10) % PLACES;
			break;
		case 'a':
			opt.after = strtoull(optarg, NULL, 10);
			break;
		case 'd':
			opt.dump = optarg;
			break;
		case 'S':
			opt.state = optarg;
			break;
		case 'f':
			opt.first = strtoull(optarg, NULL, 10);
			break;
		case 'j':
			opt.jobs = (unsigned int)strtoul(optarg, NULL, 10);
			break;
		case 'n':
			opt.seeds = strtoull(optarg, NULL, 10);
			break;
		case 'p':
			opt.plant = optarg;
			break;
		case 's':
			opt.one = true;
			opt.first = strtoull(optarg, NULL, 10);
			break;
		case 't':
			tracing = true;
			break;
		case 'u':
			opt.until_found = true;
			break;
		default:
			(void)fprintf(stderr, "usage: sim [--seeds=N] "
			    "[--first=M] [--jobs=K] [--plant=NAME "
			    "[--until-found]] [--state=FILE]\n       sim "
			    "--seed=N [--after=N] [--aim=PLACE] "
			    "[--plant=NAME] [--trace] [--dump=FILE]\n");
			return (2);
		}
	if (opt.jobs == 0)
		opt.jobs = (unsigned int)sysconf(_SC_NPROCESSORS_ONLN);
	if (opt.jobs > JOBS)
		opt.jobs = JOBS;
	(void)setvbuf(stdout, NULL, tracing ? _IOLBF : _IOFBF, 1 << 16);
	return (opt.one ? run_one() : run_many());
}
