/* wallaroo-supervisord: the command line. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

enum { OPT_ACCEPT_LOSS = 256, OPT_DROP_STATE, OPT_RENAME_STATE };

static const struct option long_options[] = {
	{ "accept-loss", no_argument, NULL, OPT_ACCEPT_LOSS },
	{ "drop-state", required_argument, NULL, OPT_DROP_STATE },
	{ "rename-state", required_argument, NULL, OPT_RENAME_STATE },
	{ NULL, 0, NULL, 0 }
};

static struct supervisor supervisor;

static void
usage(FILE *f)
{
	(void)fprintf(f, "usage: wallaroo-supervisord -c file [-n] "
	    "[--accept-loss]\n"
	    "           [--drop-state step] [--rename-state old=new]\n"
	    "       wallaroo-supervisord -x conf | connector | protocol\n"
	    "       wallaroo-supervisord -V | -h\n");
}

/* The manual's table of messages, in mdoc. */
static void
print_protocol(void)
{
#define PRINT_FIELD(type, field)	printf(" " #field ":" #type);
#define PRINT_MSG(name, code, from)					\
	printf(".It Cm %s Pq %d\nSent by the%s%s%s%s.\nFields:", #name,	\
	    code, (from) & FROM_SUP ? " supervisor" : "",		\
	    (from) & FROM_WORKER ? " worker" : "",			\
	    (from) & FROM_PEER ? " peer" : "",				\
	    (from) & FROM_CTL ? " operator" : "");			\
	MSG_FIELDS_##name(PRINT_FIELD)					\
	printf(".\n");
	printf(".Bl -tag -width Ds\n");
	MSG_TABLE(PRINT_MSG)
	printf(".El\n");
}

static int
print_part(const char *what)
{
	if (strcmp(what, "conf") == 0)
		conf_manual(stdout, false);
	else if (strcmp(what, "connector") == 0)
		conf_manual(stdout, true);
	else if (strcmp(what, "protocol") == 0)
		print_protocol();
	else {
		usage(stderr);
		return (EXIT_PERMANENT);
	}
	return (fflush(stdout) == 0 ? 0 : EXIT_TEMPORARY);
}

static int
add_rename(struct options *o, const char *arg, bool drop)
{
	const char *equal = drop ? NULL : strchr(arg, '=');
	struct rename_state *r;

	if (arg[0] == '\0' || (!drop && (equal == NULL || equal == arg ||
	    equal[1] == '\0'))) {
		log_error(drop ? "--drop-state wants the name of a step" :
		    "--rename-state wants OLD=NEW, not \"%s\"", arg);
		return (-1);
	}
	o->renames = xreallocarray(o->renames, o->nrenames + 1,
	    sizeof(*o->renames));
	r = &o->renames[o->nrenames++];
	r->from = drop ? xstrdup(arg) : xstrndup(arg, (size_t)(equal - arg));
	r->to = drop ? NULL : xstrdup(equal + 1);
	return (0);
}

static int
log_priority(int level)
{
	return (level == CONF_ERROR ? LOG_ERR : level == CONF_WARNING ?
	    LOG_WARNING : level == CONF_DEBUG ? LOG_DEBUG : LOG_INFO);
}

static int
run(struct supervisor *s, const char *file, bool check)
{
	struct err err;
	int code;

	if (conf_read(&s->conf, file, &err) == -1) {
		log_error("%s", err.text);
		return (EXIT_PERMANENT);
	}
	if (check) {
		conf_print(&s->conf, stdout);
		conf_fini(&s->conf);
		return (fflush(stdout) == 0 ? 0 : EXIT_TEMPORARY);
	}
	log_level(log_priority(s->conf.log_level));
	code = supervisor_run(s);
	conf_fini(&s->conf);
	return (code);
}

int
main(int argc, char *argv[])
{
	struct supervisor *s = &supervisor;
	const char *file = NULL;
	bool check = false;
	int ch;

	if (fault_listed(argc, argv))
		return (0);
	log_init("supervisor", LOG_INFO);
	while ((ch = getopt_long(argc, argv, "c:nx:Vh", long_options,
	    NULL)) != -1)
		switch (ch) {
		case 'c':
			file = optarg;
			break;
		case 'n':
			check = true;
			break;
		case 'x':
			return (print_part(optarg));
		case 'V':
			printf("wallaroo %s\n", PACKAGE_VERSION);
			return (0);
		case 'h':
			usage(stdout);
			return (0);
		case OPT_ACCEPT_LOSS:
			s->opt.accept_loss = true;
			break;
		case OPT_DROP_STATE:
		case OPT_RENAME_STATE:
			if (add_rename(&s->opt, optarg,
			    ch == OPT_DROP_STATE) == -1)
				return (EXIT_PERMANENT);
			break;
		default:
			usage(stderr);
			return (EXIT_PERMANENT);
		}
	if (file == NULL || optind < argc) {
		usage(stderr);
		return (EXIT_PERMANENT);
	}
	return (run(s, file, check));
}
