/*
 * cluster.conf, by libconfuse, with three things that it leaves open closed
 * here: a file that was cut off (a sentinel after its end must be read), a
 * setting given twice, and lines after a comment, which it counts wrongly.
 */
#include <sys/stat.h>

#include <confuse.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "common/conf.h"
#include "common/mem.h"
#include "common/mp.h"

#define CONF_MAX_FILE	(1024 * 1024)
#define CONF_MAX_NAME	64
#define CONF_SECTION	"application"
#define CONF_CONNECTOR	"connector"
#define CONF_CONNECTORS	64		/* in a file */
#define CONF_SENTINEL	"end-of-file"

const char *const conf_durability[] = { "none", "process", "machine",
    NULL };
const char *const conf_outputs[] = { "at-once", "after-checkpoint", NULL };
const char *const conf_on_error[] = { "fail", "skip", "dead-letter", NULL };
const char *const conf_poison[] = { "set-aside", "stop", NULL };
const char *const conf_at_end[] = { "stay", "stop", NULL };
const char *const conf_log_level[] = { "error", "warning", "info", "debug",
    NULL };
const char *const conf_access[] = { "loopback", "any", NULL };

enum conf_type { TYPE_STR, TYPE_LIST, TYPE_NUM, TYPE_SIZE, TYPE_MS,
    TYPE_CHOICE };

#define CONF_INDEX(type, field, key, def, min, max, text)	CONF_I_##field,
enum conf_index { CONF_TABLE(CONF_INDEX) CONF_N };
#undef CONF_INDEX
#define CONF_INDEX(type, field, key, def, min, max, text)	OWN_I_##field,
enum own_index { CONF_CONNECTOR_TABLE(CONF_INDEX) OWN_N };

struct conf_setting {
	const char		*key;
	enum conf_type		 type;
	size_t			 offset;	/* in the section's struct */
	const char		*str;		/* default of a str */
	int64_t			 num;		/* of the others */
	int64_t			 min;
	int64_t			 max;
	const char *const	*names;		/* of a choice */
	const char		*text;
};

#define ROW_str(def, min, max)		(def), 0, 0, 0, NULL
#define ROW_list(def, min, max)		NULL, 0, 0, 0, NULL
#define ROW_num(def, min, max)		NULL, (def), (min), (max), NULL
#define ROW_size(def, min, max)		NULL, (def), (min), (max), NULL
#define ROW_ms(def, min, max)		NULL, (def), (min), (max), NULL
#define ROW_choice(def, min, max)	NULL, (def), 0, 0, (min)
#define TYPE_str			TYPE_STR
#define TYPE_list			TYPE_LIST
#define TYPE_num			TYPE_NUM
#define TYPE_size			TYPE_SIZE
#define TYPE_ms				TYPE_MS
#define TYPE_choice			TYPE_CHOICE
#define CONF_ROW(type, field, key, def, min, max, text)			\
	{ key, TYPE_##type, offsetof(struct conf_app, field),		\
	    ROW_##type(def, min, max), text },
#define OWN_ROW(type, field, key, def, min, max, text)			\
	{ key, TYPE_##type, offsetof(struct conf_connector, field),	\
	    ROW_##type(def, min, max), text },

static const struct conf_setting settings[CONF_N] = {
	CONF_TABLE(CONF_ROW)
};
/* Those of a connector. */
static const struct conf_setting own[OWN_N] = {
	CONF_CONNECTOR_TABLE(OWN_ROW)
};

/* Where a connector's section is, and what is set there. */
struct own_lines {
	int	begin;
	int	line[OWN_N];		/* 0 = it was not */
};

/* One run of conf_read. */
struct conf_parse {
	struct conf_app	*app;
	const char	*file;		/* as given, for messages */
	struct err	*err;
	bool		 failed;
	bool		 complete;	/* the sentinel was read */
	int		 last_line;	/* the sentinel's */
	int		 sections;
	int		 end;		/* line where the section ends */
	int		 line[CONF_N];	/* where it was set, 0 = it was not */
	struct own_lines connector[CONF_CONNECTORS];
	size_t		 nconnectors;
};

/* libconfuse's callbacks have no argument of ours. */
static _Thread_local struct conf_parse *parsing;

static char **
as_str(const void *of, const struct conf_setting *s)
{
	return ((char **)((uintptr_t)of + s->offset));
}

static struct conf_list *
as_list(const void *of, const struct conf_setting *s)
{
	return ((struct conf_list *)((uintptr_t)of + s->offset));
}

static int64_t
get_num(const void *of, const struct conf_setting *s)
{
	if (s->type == TYPE_CHOICE)
		return (*(int *)((uintptr_t)of + s->offset));
	return (*(int64_t *)((uintptr_t)of + s->offset));
}

static void
set_num(void *of, const struct conf_setting *s, int64_t v)
{
	if (s->type == TYPE_CHOICE)
		*(int *)((uintptr_t)of + s->offset) = (int)v;
	else
		*(int64_t *)((uintptr_t)of + s->offset) = v;
}

static void
set_str(char **at, const char *v)
{
	free(*at);
	*at = xstrdup(v);
}

static void
list_clear(struct conf_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->item[i]);
	free(l->item);
	l->item = NULL;
	l->n = 0;
}

static void
list_add(struct conf_list *l, const char *v)
{
	l->item = xreallocarray(l->item, l->n + 1, sizeof(*l->item));
	l->item[l->n++] = xstrdup(v);
}

static void
init_settings(void *of, const struct conf_setting *s, size_t n)
{
	for (; n > 0; s++, n--) {
		if (s->type == TYPE_STR)
			*as_str(of, s) = xstrdup(s->str);
		else if (s->type != TYPE_LIST)
			set_num(of, s, s->num);
	}
}

static void
free_settings(void *of, const struct conf_setting *s, size_t n)
{
	for (; n > 0; s++, n--) {
		if (s->type == TYPE_STR)
			free(*as_str(of, s));
		else if (s->type == TYPE_LIST)
			list_clear(as_list(of, s));
	}
}

static void
conf_init(struct conf_app *app)
{
	memset(app, 0, sizeof(*app));
	init_settings(app, settings, CONF_N);
}

void
conf_fini(struct conf_app *app)
{
	free(app->name);
	free(app->file);
	free_settings(app, settings, CONF_N);
	for (size_t i = 0; i < app->nconnectors; i++) {
		free(app->connectors[i].name);
		free_settings(&app->connectors[i], own, OWN_N);
	}
	free(app->connectors);
	memset(app, 0, sizeof(*app));
}

/*
 * Values as text.
 */

static void
add_size(struct buf *b, int64_t v)
{
	static const char suffix[] = "KMG";
	int i = -1;

	while (i < 2 && v != 0 && v % 1024 == 0) {
		v /= 1024;
		i++;
	}
	buf_addf(b, "%" PRId64, v);
	if (i >= 0)
		buf_addf(b, "%c", suffix[i]);
}

static void
add_seconds(struct buf *b, int64_t ms)
{
	buf_addf(b, "%" PRId64, ms / 1000);
	if (ms % 1000 == 0)
		return;
	buf_addf(b, ".%03d", (int)(ms % 1000));
	while (b->data[b->len - 1] == '0')
		b->len--;
}

static void
add_number(struct buf *b, const struct conf_setting *s, int64_t v)
{
	if (s->type == TYPE_SIZE)
		add_size(b, v);
	else if (s->type == TYPE_MS)
		add_seconds(b, v);
	else if (s->type == TYPE_CHOICE)
		buf_addf(b, "%s", s->names[v]);
	else
		buf_addf(b, "%" PRId64, v);
}

/* A string that libconfuse reads back as it was. */
static void
add_quoted(struct buf *b, const char *s)
{
	buf_addf(b, "\"");
	for (; *s != '\0'; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\' || c == '$')
			buf_addf(b, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			buf_addf(b, "\\x%02x", c);
		else
			buf_add(b, s, 1);
	}
	buf_addf(b, "\"");
}

/* "a, b or c" */
static void
add_names(struct buf *b, const char *const *names)
{
	for (size_t i = 0; names[i] != NULL; i++)
		buf_addf(b, "%s%s", i == 0 ? "" :
		    names[i + 1] == NULL ? " or " : ", ", names[i]);
}

static void
add_allowed(struct buf *b, const struct conf_setting *s)
{
	switch (s->type) {
	case TYPE_CHOICE:
		add_names(b, s->names);
		return;
	case TYPE_NUM:
		buf_addf(b, "a number from ");
		break;
	case TYPE_SIZE:
		buf_addf(b, "bytes (K, M and G are understood) from ");
		break;
	case TYPE_MS:
		buf_addf(b, "seconds from ");
		break;
	case TYPE_STR:
	case TYPE_LIST:
		return;
	}
	add_number(b, s, s->min);
	buf_addf(b, " to ");
	add_number(b, s, s->max);
}

/*
 * Text as values: -1 if it is not one, or is out of range.
 */

/* Decimal digits; *p is left after them. */
static int
parse_digits(const char **p, int64_t *v)
{
	const char *start = *p;

	for (*v = 0; isdigit((unsigned char)**p); (*p)++) {
		if (*v > INT64_MAX / 10 - 1)
			return (-1);
		*v = *v * 10 + (**p - '0');
	}
	return (*p == start ? -1 : 0);
}

static int
parse_size(const char *p, int64_t *v)
{
	const char *at;
	int shift = 0;

	if (parse_digits(&p, v) == -1)
		return (-1);
	if (*p != '\0' && (at = strchr("KkMmGg", *p)) != NULL) {
		shift = 10 * (1 + (int)(at - "KkMmGg") / 2);
		p++;
	}
	if (*p != '\0' || *v > INT64_MAX >> shift)
		return (-1);
	*v <<= shift;
	return (0);
}

static int
parse_seconds(const char *p, int64_t *v)
{
	int64_t scale = 100;

	if (parse_digits(&p, v) == -1 || *v > INT64_MAX / 1000 - 1)
		return (-1);
	*v *= 1000;
	if (*p == '.') {
		p++;
		if (!isdigit((unsigned char)*p))
			return (-1);
		for (; isdigit((unsigned char)*p); p++) {
			if (scale == 0 && *p != '0')
				return (-1);	/* finer than we can keep */
			*v += (*p - '0') * scale;
			scale /= 10;
		}
	}
	return (*p == '\0' ? 0 : -1);
}

static int
parse_number(const struct conf_setting *s, const char *text, int64_t *v)
{
	const char *p = text;

	switch (s->type) {
	case TYPE_CHOICE:
		for (*v = 0; s->names[*v] != NULL; (*v)++)
			if (strcmp(s->names[*v], text) == 0)
				return (0);
		return (-1);
	case TYPE_SIZE:
		if (parse_size(text, v) == -1)
			return (-1);
		break;
	case TYPE_MS:
		if (parse_seconds(text, v) == -1)
			return (-1);
		break;
	default:
		if (parse_digits(&p, v) == -1 || *p != '\0')
			return (-1);
		break;
	}
	return (*v >= s->min && *v <= s->max ? 0 : -1);
}

/*
 * Messages.
 */

static int __attribute__((format(printf, 3, 4)))
complain(struct conf_parse *p, int line, const char *fmt, ...)
{
	char text[ERR_TEXT];
	va_list ap;

	if (p->failed)
		return (-1);	/* the first one is the cause */
	p->failed = true;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (line >= p->last_line)
		return (err_set(p->err, ERR_CONFIG, "%s:%d: the file ends "
		    "before its \"" CONF_SECTION "\" section does",
		    p->file, p->last_line - 1));
	return (err_set(p->err, ERR_CONFIG, "%s:%d: %s", p->file, line,
	    text));
}

static int
complain_value(struct conf_parse *p, int line, const struct conf_setting *s,
    const char *value)
{
	struct buf allowed;
	int r;

	buf_init(&allowed);
	add_allowed(&allowed, s);
	r = complain(p, line, "%s = \"%s\" is not allowed: it must be %s",
	    s->key, value, buf_str(&allowed));
	buf_fini(&allowed);
	return (r);
}

static int
complain_unknown(struct conf_parse *p, int line, const char *name,
    const struct conf_setting *s, size_t n)
{
	struct buf keys;
	int r;

	buf_init(&keys);
	for (size_t i = 0; i < n; i++)
		buf_addf(&keys, "%s%s", i == 0 ? "" : ", ", s[i].key);
	r = complain(p, line, "there is no setting \"%s\"; there are: %s",
	    name, buf_str(&keys));
	buf_fini(&keys);
	return (r);
}

static void __attribute__((format(printf, 2, 0)))
on_error(cfg_t *cfg, const char *fmt, va_list ap)
{
	struct conf_parse *p = parsing;
	char text[512], *name, *end;

	(void)vsnprintf(text, sizeof(text), fmt, ap);
	if (strstr(text, "no such option") != NULL &&
	    (name = strchr(text, '\'')) != NULL) {
		name++;
		if ((end = strrchr(name, '\'')) != NULL)
			*end = '\0';
		if (strcmp(cfg_name(cfg), CONF_SECTION) == 0)
			(void)complain_unknown(p, cfg->line, name, settings,
			    CONF_N);
		else if (strcmp(cfg_name(cfg), CONF_CONNECTOR) == 0)
			(void)complain_unknown(p, cfg->line, name, own,
			    OWN_N);
		else
			(void)complain(p, cfg->line, "\"%s\" is not allowed "
			    "here: only an \"" CONF_SECTION "\" section is",
			    name);
		return;
	}
	(void)complain(p, cfg->line, "%s", text);
}

/*
 * What libconfuse calls: for each value, each list and each section.
 */

static const struct conf_setting *
setting_of(const char *key)
{
	for (size_t i = 0; i < CONF_N; i++)
		if (strcmp(settings[i].key, key) == 0)
			return (&settings[i]);
	return (NULL);
}

/* A list is taken over at the end of its section. */
static int
take_value(struct conf_parse *p, void *of, const struct conf_setting *s,
    int line, const char *value)
{
	int64_t v;

	if (s->type == TYPE_STR) {
		set_str(as_str(of, s), value);
		return (0);
	}
	if (parse_number(s, value, &v) == -1)
		return (complain_value(p, line, s, value));
	set_num(of, s, v);
	return (0);
}

static int
on_value(cfg_t *cfg, cfg_opt_t *opt)
{
	struct conf_parse *p = parsing;
	const struct conf_setting *s = setting_of(cfg_opt_name(opt));
	const char *value;

	if (s == NULL || s->type == TYPE_LIST)
		return (0);
	value = cfg_opt_getnstr(opt, 0);
	if (value == NULL || cfg->line >= p->last_line)
		return (complain(p, cfg->line, "no value"));
	return (take_value(p, p->app, s, cfg->line, value));
}

static void
take_lists(void *of, const struct conf_setting *s, size_t n, cfg_t *sec)
{
	for (; n > 0; s++, n--) {
		if (s->type != TYPE_LIST)
			continue;
		for (unsigned int k = 0; k < cfg_size(sec, s->key); k++)
			list_add(as_list(of, s), cfg_getnstr(sec, s->key, k));
	}
}

static bool
name_ok(const char *name)
{
	size_t n = strlen(name);

	if (n == 0 || n > CONF_MAX_NAME || name[0] == '.' || name[0] == '-')
		return (false);
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)name[i]) &&
		    strchr("._-", name[i]) == NULL)
			return (false);
	return (true);
}

static int
on_section(cfg_t *cfg, cfg_opt_t *opt)
{
	struct conf_parse *p = parsing;
	cfg_t *sec = cfg_opt_getnsec(opt, cfg_opt_size(opt) - 1);

	if (++p->sections > 1)
		return (complain(p, cfg->line,
		    "a file has one \"" CONF_SECTION "\" section"));
	p->end = cfg->line;
	if (!name_ok(cfg_title(sec)))
		return (complain(p, cfg->line, "\"%s\" is not allowed as the "
		    "application's name: up to %d letters, digits, \".\", "
		    "\"_\" and \"-\", the first a letter, a digit or \"_\"",
		    cfg_title(sec), CONF_MAX_NAME));
	p->app->name = xstrdup(cfg_title(sec));
	take_lists(p->app, settings, CONF_N, sec);
	return (0);
}

/* A number is a worker's name, for who restarts one. */
static bool
connector_name_ok(const char *name)
{
	return (name_ok(name) && name[strspn(name, "0123456789")] != '\0');
}

static int
check_connector(struct conf_parse *p, const struct conf_connector *c,
    const struct own_lines *at)
{
	if (!connector_name_ok(c->name))
		return (complain(p, at->begin, "\"%s\" is not allowed as a "
		    "connector's name: up to %d letters, digits, \".\", "
		    "\"_\" and \"-\", the first a letter, a digit or "
		    "\"_\", and not digits only", c->name, CONF_MAX_NAME));
	if (c->command.n == 0 || c->command.item[0][0] == '\0')
		return (complain(p, at->begin, "connector \"%s\": \"command\" "
		    "is missing: the program and its arguments", c->name));
	if ((c->source[0] == '\0') == (c->sink[0] == '\0'))
		return (complain(p, at->begin, "connector \"%s\" needs "
		    "\"source\" or \"sink\", and not both: the name of what "
		    "it feeds or takes", c->name));
	return (0);
}

/* The end of one; they come in the order in which they were scanned. */
static int
on_connector(cfg_t *cfg, cfg_opt_t *opt)
{
	struct conf_parse *p = parsing;
	struct conf_app *a = p->app;
	cfg_t *sec = cfg_opt_getnsec(opt, cfg_opt_size(opt) - 1);
	const struct own_lines *at = &p->connector[a->nconnectors];
	struct conf_connector *c;
	const char *value;

	if (a->nconnectors >= p->nconnectors || cfg->line >= p->last_line)
		return (complain(p, cfg->line, "this is no connector"));
	a->connectors = xreallocarray(a->connectors, a->nconnectors + 1,
	    sizeof(*c));
	c = &a->connectors[a->nconnectors++];
	memset(c, 0, sizeof(*c));
	c->name = xstrdup(cfg_title(sec));
	init_settings(c, own, OWN_N);
	for (size_t i = 0; i < OWN_N; i++) {
		if (own[i].type == TYPE_LIST || cfg_size(sec, own[i].key) == 0)
			continue;
		if ((value = cfg_getstr(sec, own[i].key)) == NULL)
			return (complain(p, at->line[i], "no value"));
		if (take_value(p, c, &own[i], at->line[i], value) == -1)
			return (-1);
	}
	take_lists(c, own, OWN_N, sec);
	return (check_connector(p, c, at));
}

static int
on_sentinel(cfg_t *cfg, cfg_opt_t *opt)
{
	struct conf_parse *p = parsing;

	(void)opt;
	if (cfg->line < p->last_line)
		return (complain(p, cfg->line,
		    "\"" CONF_SENTINEL "\" is not allowed here"));
	p->complete = true;
	return (0);
}

/*
 * Before libconfuse: comments become blanks, because after one it counts
 * lines wrongly, and it is noted where each setting is given, because of two
 * it takes the last and says nothing (and for an empty list calls nobody).
 * This knows of its language what is needed to see "word =" at the depth of
 * settings; whatever else is wrong libconfuse finds.
 */
struct scan {
	char	*p;
	char	*end;
	int	 line;
};

static bool
scan_is(const struct scan *sc, const char *s)
{
	size_t n = strlen(s);

	return ((size_t)(sc->end - sc->p) >= n && memcmp(sc->p, s, n) == 0);
}

/* Up to and with stop, or to the end: then false. */
static bool
scan_until(struct scan *sc, const char *stop, bool escapes)
{
	while (sc->p < sc->end && !scan_is(sc, stop)) {
		if (escapes && *sc->p == '\\' && sc->p + 1 < sc->end)
			sc->p++;
		if (*sc->p++ == '\n')
			sc->line++;
	}
	if (sc->p == sc->end)
		return (false);
	if (*stop != '\n')	/* the end of a line stays where it is */
		sc->p += strlen(stop);
	return (true);
}

static void
blank(char *from, const char *to)
{
	for (; from < to; from++)
		if (*from != '\n')
			*from = ' ';
}

/*
 * At "${": libconfuse would take an environment variable that is not set for
 * an empty string, and the path or address made with it would be another one.
 * ${NAME:-text} says what to take instead.
 */
static int
scan_variable(struct conf_parse *p, struct scan *sc)
{
	const char *start = sc->p + 2, *end;
	int line = sc->line;
	char name[128];

	if (!scan_until(sc, "}", false))
		return (0);	/* libconfuse says so */
	end = memchr(start, '}', (size_t)(sc->p - start));
	if (memmem(start, (size_t)(end - start), ":-", 2) != NULL)
		return (0);
	(void)snprintf(name, sizeof(name), "%.*s", (int)(end - start), start);
	if (getenv(name) != NULL)
		return (0);
	return (complain(p, line, "the environment variable \"%s\" is not "
	    "set; ${%s:-text} gives it a default", name, name));
}

/* In double quotes, up to and with the closing one. */
static int
scan_quoted(struct conf_parse *p, struct scan *sc)
{
	while (sc->p < sc->end && *sc->p != '"') {
		if (scan_is(sc, "${")) {
			if (scan_variable(p, sc) == -1)
				return (-1);
			continue;
		}
		if (*sc->p == '\\' && sc->p + 1 < sc->end)
			sc->p++;
		if (*sc->p++ == '\n')
			sc->line++;
	}
	if (sc->p < sc->end)
		sc->p++;
	return (0);
}

/* Comments, strings and ${variables}: 1 if there was one, -1 if it is wrong. */
static int
scan_opaque(struct conf_parse *p, struct scan *sc)
{
	char *start = sc->p;

	if (*start == '#' || scan_is(sc, "//")) {
		(void)scan_until(sc, "\n", false);
		blank(start, sc->p);
	} else if (scan_is(sc, "/*")) {
		if (scan_until(sc, "*/", false))
			blank(start, sc->p);
	} else if (scan_is(sc, "${")) {
		if (scan_variable(p, sc) == -1)
			return (-1);
	} else if (*start == '"') {
		sc->p++;
		if (scan_quoted(p, sc) == -1)
			return (-1);
	} else if (*start == '\'') {
		sc->p++;
		(void)scan_until(sc, "'", true);
	} else
		return (0);
	return (1);
}

static int
scan_key(struct conf_parse *p, const struct conf_setting *s, size_t nsettings,
    int *lines, const char *word, size_t n, int line)
{
	for (size_t i = 0; i < nsettings; i++) {
		if (strlen(s[i].key) != n || memcmp(s[i].key, word, n) != 0)
			continue;
		if (lines[i] != 0)
			return (complain(p, line, "\"%s\" is set a second "
			    "time, the first is in line %d", s[i].key,
			    lines[i]));
		lines[i] = line;
	}
	return (0);
}

static int
scan_connector(struct conf_parse *p, int line)
{
	if (p->nconnectors == CONF_CONNECTORS)
		return (complain(p, line, "more than %d connectors are not "
		    "allowed", CONF_CONNECTORS));
	p->connector[p->nconnectors++].begin = line;
	return (0);
}

/* What the scan is in the middle of. */
struct place {
	const char	*word;		/* the last one */
	size_t		 n;
	int		 depth;		/* of braces */
	int		 nsections;
	bool		 is_value;	/* behind a = */
	bool		 inside;	/* a connector */
};

/* A brace or an equals sign. */
static int
scan_mark(struct conf_parse *p, const struct scan *sc, struct place *at)
{
	int r = 0;

	if (*sc->p == '{') {
		at->nsections += at->depth == 0;
		if (at->depth++ == 1 && !at->is_value && at->nsections == 1) {
			at->inside = true;
			r = scan_connector(p, sc->line);
		}
	} else if (*sc->p == '}') {
		if (--at->depth == 1)
			at->inside = false;
	} else if (at->depth == 1 && at->nsections == 1)
		r = scan_key(p, settings, CONF_N, p->line, at->word, at->n,
		    sc->line);
	else if (at->depth == 2 && at->inside)
		r = scan_key(p, own, OWN_N,
		    p->connector[p->nconnectors - 1].line, at->word, at->n,
		    sc->line);
	at->is_value = *sc->p == '=';
	return (r);
}

static int
scan_text(struct conf_parse *p, struct buf *text)
{
	struct scan sc = { (char *)text->data,
	    (char *)text->data + text->len, 1 };
	struct place at = { .word = sc.p };
	int r;

	while (sc.p < sc.end) {
		if ((r = scan_opaque(p, &sc)) == -1)
			return (-1);
		if (r == 1)
			continue;
		if (strchr("{}=+, \t\r\n", *sc.p) == NULL) {
			for (at.word = sc.p; sc.p < sc.end &&
			    strchr("{}=+, \t\r\n#\"'", *sc.p) == NULL; )
				sc.p++;
			at.n = (size_t)(sc.p - at.word);
			at.is_value = false;
			continue;
		}
		if (strchr("{}=", *sc.p) != NULL) {
			if (scan_mark(p, &sc, &at) == -1)
				return (-1);
		} else if (*sc.p == '\n')
			sc.line++;
		sc.p++;
	}
	return (0);
}

/*
 * The file.
 */

/* The whole file and a sentinel after it; p->last_line is the sentinel's. */
static int
read_file(struct conf_parse *p, struct buf *b)
{
	struct stat st;
	char part[4096];
	size_t n;
	FILE *f;

	f = fopen(p->file, "re");
	if (f == NULL)
		return (err_sys(p->err, ERR_CONFIG, "%s", p->file));
	if (fstat(fileno(f), &st) == 0 && S_ISDIR(st.st_mode)) {
		fclose(f);
		return (err_set(p->err, ERR_CONFIG, "%s: is a directory",
		    p->file));
	}
	while ((n = fread(part, 1, sizeof(part), f)) > 0 &&
	    b->len <= CONF_MAX_FILE)
		buf_add(b, part, n);
	if (ferror(f)) {
		(void)err_sys(p->err, ERR_CONFIG, "%s", p->file);
		fclose(f);
		return (-1);
	}
	fclose(f);
	if (b->len > CONF_MAX_FILE)
		return (err_set(p->err, ERR_CONFIG,
		    "%s: larger than %d bytes", p->file, CONF_MAX_FILE));
	p->last_line = 1;
	for (size_t i = 0; i < b->len; i++) {
		if (b->data[i] == '\0')
			return (complain(&(struct conf_parse){
			    .file = p->file, .err = p->err,
			    .last_line = INT_MAX }, p->last_line,
			    "a NUL byte: this is not a text file"));
		if (b->data[i] == '\n')
			p->last_line++;
	}
	if (b->len == 0 || b->data[b->len - 1] != '\n') {
		buf_addf(b, "\n");
		p->last_line++;
	}
	return (0);
}

static void
make_options(cfg_opt_t *opts, const struct conf_setting *s, size_t n)
{
	for (; n > 0; s++, n--, opts++)
		if (s->type == TYPE_LIST)
			*opts = (cfg_opt_t)CFG_STR_LIST(s->key, NULL,
			    CFGF_NODEFAULT);
		else
			*opts = (cfg_opt_t)CFG_STR(s->key, NULL,
			    CFGF_NODEFAULT);
	*opts = (cfg_opt_t)CFG_END();
}

static int
parse_text(struct conf_parse *p, struct buf *text)
{
	cfg_opt_t owns[OWN_N + 1], opts[CONF_N + 2];
	cfg_opt_t top[] = {
		CFG_SEC(CONF_SECTION, opts, CFGF_MULTI | CFGF_TITLE),
		CFG_STR(CONF_SENTINEL, NULL, CFGF_NODEFAULT),
		CFG_END()
	};
	char path[128];
	cfg_t *cfg;
	FILE *f;
	int r;

	make_options(owns, own, OWN_N);
	make_options(opts + 1, settings, CONF_N);
	opts[0] = (cfg_opt_t)CFG_SEC(CONF_CONNECTOR, owns, CFGF_MULTI |
	    CFGF_TITLE | CFGF_NO_TITLE_DUPES);
	cfg = cfg_init(top, CFGF_NONE);
	if (cfg == NULL || (f = fmemopen(text->data, text->len, "r")) == NULL)
		abort();
	(void)cfg_set_error_function(cfg, on_error);
	(void)cfg_set_validate_func(cfg, CONF_SECTION, on_section);
	(void)cfg_set_validate_func(cfg, CONF_SECTION "|" CONF_CONNECTOR,
	    on_connector);
	(void)cfg_set_validate_func(cfg, CONF_SENTINEL, on_sentinel);
	for (size_t i = 0; i < CONF_N; i++) {
		(void)snprintf(path, sizeof(path), CONF_SECTION "|%s",
		    settings[i].key);
		(void)cfg_set_validate_func(cfg, path, on_value);
	}
	parsing = p;
	r = cfg_parse_fp(cfg, f);
	parsing = NULL;
	fclose(f);
	cfg_free(cfg);
	if (p->failed)
		return (-1);
	if (r != CFG_SUCCESS || !p->complete)
		return (complain(p, p->last_line, "cut off"));
	return (0);
}

/* Line to blame for setting a together with b. */
static int
line_of(const struct conf_parse *p, enum conf_index a, enum conf_index b)
{
	int line = p->line[a] > p->line[b] ? p->line[a] : p->line[b];

	return (line == 0 ? p->end : line);
}

static int
check(struct conf_parse *p)
{
	const struct conf_app *a = p->app;

	if (p->sections == 0)
		return (complain(p, 1, "no \"" CONF_SECTION
		    "\" section: application \"name\" { ... }"));
	if (a->module[0] == '\0')
		return (complain(p, p->end, "\"module\" is missing: the "
		    "Python module that has application_setup(args)"));
	if (a->state_directory[0] == '\0')
		return (complain(p, p->end, "\"state-directory\" is missing: "
		    "where state and checkpoints live"));
	if ((a->partitions & (a->partitions - 1)) != 0)
		return (complain(p, p->line[CONF_I_partitions],
		    "partitions = %" PRId64 " is not allowed: it must be a "
		    "power of two from 1 to 65536", a->partitions));
	if (a->workers > a->partitions)
		return (complain(p, line_of(p, CONF_I_workers,
		    CONF_I_partitions), "workers = %" PRId64 " is not "
		    "allowed: there must be at least as many partitions "
		    "(%" PRId64 ")", a->workers, a->partitions));
	if (a->journal_size < 4 * a->max_message)
		return (complain(p, line_of(p, CONF_I_journal_size,
		    CONF_I_max_message), "journal-size = %" PRId64 " is not "
		    "allowed: it must be at least 4 times max-message "
		    "(%" PRId64 ")", a->journal_size, a->max_message));
	if (a->outputs == CONF_AFTER_CHECKPOINT && a->durability == CONF_NONE)
		return (complain(p, p->line[CONF_I_outputs],
		    "outputs = after-checkpoint is not allowed with "
		    "durability = none: there are no checkpoints"));
	if (a->outbox_size < 2 * a->max_message)
		return (complain(p, line_of(p, CONF_I_outbox_size,
		    CONF_I_max_message), "outbox-size = %" PRId64 " is not "
		    "allowed: it must be at least 2 times max-message "
		    "(%" PRId64 ")", a->outbox_size, a->max_message));
	if (a->outbox_mark >= a->outbox_size)
		return (complain(p, line_of(p, CONF_I_outbox_mark,
		    CONF_I_outbox_size), "outbox-mark = %" PRId64 " is not "
		    "allowed: it must be less than outbox-size "
		    "(%" PRId64 ")", a->outbox_mark, a->outbox_size));
	return (0);
}

static void
absolute(char **path, const char *dir)
{
	const char *rest = *path;
	char *joined;

	if (**path == '\0' || **path == '/')
		return;
	while (strncmp(rest, "./", 2) == 0)
		rest += 2;
	if (strcmp(rest, ".") == 0)
		joined = xstrdup(dir);
	else
		joined = xasprintf("%s/%s", strcmp(dir, "/") == 0 ? "" : dir,
		    rest);
	free(*path);
	*path = joined;
}

/* A name without a slash is looked for in PATH. */
static void
resolve_connector(struct conf_connector *c, const char *dir)
{
	absolute(&c->python, dir);
	if (c->python[0] == '\0' && strchr(c->command.item[0], '/') != NULL)
		absolute(&c->command.item[0], dir);
}

/* Paths are relative to the file; defaults that follow from other settings. */
static int
resolve(struct conf_parse *p)
{
	struct conf_app *a = p->app;
	struct sockaddr_un sun;
	const char *slash = strrchr(p->file, '/');
	char *dir, *real;

	dir = slash == NULL ? xstrdup(".") : slash == p->file ? xstrdup("/") :
	    xstrndup(p->file, (size_t)(slash - p->file));
	real = realpath(dir, NULL);
	free(dir);
	if (real == NULL)
		return (err_sys(p->err, ERR_CONFIG, "%s", p->file));
	a->file = xasprintf("%s/%s", strcmp(real, "/") == 0 ? "" : real,
	    slash == NULL ? p->file : slash + 1);
	absolute(&a->state_directory, real);
	absolute(&a->runtime_directory, real);
	absolute(&a->control_socket, real);
	absolute(&a->python, real);
	absolute(&a->dead_letter_file, real);
	absolute(&a->cgroup, real);
	for (size_t i = 0; i < a->nconnectors; i++)
		resolve_connector(&a->connectors[i], real);
	for (size_t i = 0; i < a->python_path.n; i++)
		absolute(&a->python_path.item[i], real);
	if (a->python_path.n == 0)
		list_add(&a->python_path, real);
	if (a->dead_letter_file[0] == '\0') {
		free(a->dead_letter_file);
		a->dead_letter_file = xasprintf("%s/dead-letters.jsonl",
		    a->state_directory);
	}
	/* Where that is too long, the supervisor finds a shorter one. */
	if (a->control_socket[0] == '\0' && strlen(a->state_directory) +
	    sizeof("/control.sock") <= sizeof(sun.sun_path)) {
		free(a->control_socket);
		a->control_socket = xasprintf("%s/control.sock",
		    a->state_directory);
	}
	free(real);
	return (0);
}

int
conf_read(struct conf_app *app, const char *file, struct err *err)
{
	struct conf_parse p = { .app = app, .file = file, .err = err };
	struct buf text;
	int r;

	conf_init(app);
	buf_init(&text);
	r = read_file(&p, &text);
	if (r == 0)
		r = scan_text(&p, &text);
	if (r == 0) {
		buf_addf(&text, CONF_SENTINEL " = 1\n");
		r = parse_text(&p, &text);
	}
	if (r == 0)
		r = check(&p);
	if (r == 0)
		r = resolve(&p);
	buf_fini(&text);
	if (r == -1)
		conf_fini(app);
	return (r);
}

/*
 * Writing.
 */

static void
add_value(struct buf *b, const void *of, const struct conf_setting *s)
{
	const struct conf_list *l;

	switch (s->type) {
	case TYPE_STR:
		add_quoted(b, *as_str(of, s));
		break;
	case TYPE_LIST:
		l = as_list(of, s);
		buf_addf(b, "{");
		for (size_t i = 0; i < l->n; i++) {
			buf_addf(b, "%s", i == 0 ? "" : ", ");
			add_quoted(b, l->item[i]);
		}
		buf_addf(b, "}");
		break;
	default:
		add_number(b, s, get_num(of, s));
		break;
	}
}

static void
add_settings(struct buf *b, const void *of, const struct conf_setting *s,
    size_t n, const char *indent)
{
	for (; n > 0; s++, n--) {
		buf_addf(b, "%s%s = ", indent, s->key);
		add_value(b, of, s);
		buf_addf(b, "\n");
	}
}

void
conf_print(const struct conf_app *app, FILE *f)
{
	struct buf b;

	buf_init(&b);
	buf_addf(&b, CONF_SECTION " ");
	add_quoted(&b, app->name);
	buf_addf(&b, " {\n");
	add_settings(&b, app, settings, CONF_N, "\t");
	for (size_t i = 0; i < app->nconnectors; i++) {
		buf_addf(&b, "\t" CONF_CONNECTOR " ");
		add_quoted(&b, app->connectors[i].name);
		buf_addf(&b, " {\n");
		add_settings(&b, &app->connectors[i], own, OWN_N, "\t\t");
		buf_addf(&b, "\t}\n");
	}
	buf_addf(&b, "}\n");
	(void)fwrite(b.data, 1, b.len, f);
	buf_fini(&b);
}

void
conf_manual(FILE *f, bool connector)
{
	static const char *const arg[] = {
		[TYPE_STR] = "string", [TYPE_LIST] = "list",
		[TYPE_NUM] = "number", [TYPE_SIZE] = "bytes",
		[TYPE_MS] = "seconds", [TYPE_CHOICE] = "word"
	};
	const struct conf_setting *s = connector ? own : settings;
	size_t n = connector ? OWN_N : CONF_N;
	struct buf b;

	buf_init(&b);
	buf_addf(&b, ".Bl -tag -width Ds\n");
	for (; n > 0; s++, n--) {
		buf_addf(&b, ".It Ic %s No = Ar %s\n%c%s.\n", s->key,
		    arg[s->type], toupper((unsigned char)s->text[0]),
		    s->text + 1);
		if (s->type == TYPE_STR || s->type == TYPE_LIST)
			continue;
		buf_addf(&b, "Default: ");
		add_number(&b, s, s->num);
		if (s->type != TYPE_CHOICE) {
			buf_addf(&b, "; from ");
			add_number(&b, s, s->min);
			buf_addf(&b, " to ");
			add_number(&b, s, s->max);
		}
		buf_addf(&b, ".\n");
	}
	buf_addf(&b, ".El\n");
	(void)fwrite(b.data, 1, b.len, f);
	buf_fini(&b);
}

/*
 * For the worker: [name, file, value, ...] in the order of conf.def.
 */

void
conf_pack(const struct conf_app *app, struct buf *b)
{
	const struct conf_list *l;

	mp_put_array(b, 2 + CONF_N);
	mp_put_str(b, app->name);
	mp_put_str(b, app->file);
	for (size_t i = 0; i < CONF_N; i++) {
		const struct conf_setting *s = &settings[i];

		switch (s->type) {
		case TYPE_STR:
			mp_put_str(b, *as_str(app, s));
			break;
		case TYPE_LIST:
			l = as_list(app, s);
			mp_put_array(b, (uint32_t)l->n);
			for (size_t k = 0; k < l->n; k++)
				mp_put_str(b, l->item[k]);
			break;
		default:
			mp_put_int(b, get_num(app, s));
			break;
		}
	}
}

static void
unpack_list(struct conf_list *l, struct mp *c)
{
	uint32_t n = mp_get_array(c);
	char *v;

	while (n-- > 0 && (v = mp_get_strdup(c)) != NULL) {
		list_add(l, v);
		free(v);
	}
}

static void
unpack_number(struct conf_app *app, const struct conf_setting *s,
    struct mp *c)
{
	int64_t v = mp_get_int(c), max = s->max;

	if (s->type == TYPE_CHOICE)
		for (max = 0; s->names[max + 1] != NULL; )
			max++;
	if (v < s->min || v > max)
		c->bad = true;
	else
		set_num(app, s, v);
}

int
conf_unpack(struct conf_app *app, struct slice s, struct err *err)
{
	struct mp c;
	char *v;

	conf_init(app);
	mp_init(&c, s);
	if (mp_get_array(&c) != 2 + CONF_N)
		c.bad = true;
	app->name = mp_get_strdup(&c);
	app->file = mp_get_strdup(&c);
	for (size_t i = 0; i < CONF_N && mp_ok(&c); i++) {
		if (settings[i].type == TYPE_STR) {
			if ((v = mp_get_strdup(&c)) != NULL)
				set_str(as_str(app, &settings[i]), v);
			free(v);
		} else if (settings[i].type == TYPE_LIST)
			unpack_list(as_list(app, &settings[i]), &c);
		else
			unpack_number(app, &settings[i], &c);
	}
	if (!mp_end(&c)) {
		conf_fini(app);
		return (err_set(err, ERR_CORRUPT, "malformed configuration"));
	}
	return (0);
}
