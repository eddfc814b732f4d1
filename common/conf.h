/*
 * cluster.conf: one `application "name" { ... }` section, read by libconfuse,
 * which may have `connector "name" { ... }` sections inside.
 * conf.def declares the settings.
 */
#ifndef COMMON_CONF_H
#define COMMON_CONF_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/buf.h"
#include "common/conf.def"
#include "common/err.h"

enum conf_durability { CONF_NONE, CONF_PROCESS, CONF_MACHINE };
enum conf_outputs { CONF_AT_ONCE, CONF_AFTER_CHECKPOINT };
enum conf_on_error { CONF_FAIL, CONF_SKIP, CONF_DEAD_LETTER };
enum conf_poison { CONF_SET_ASIDE, CONF_STOP };
enum conf_at_end { CONF_STAY, CONF_LEAVE };
enum conf_log_level { CONF_ERROR, CONF_WARNING, CONF_INFO, CONF_DEBUG };
enum conf_access { CONF_LOOPBACK, CONF_ANY };
/* NULL-terminated names in the order of the enums. */
extern const char *const conf_durability[], *const conf_outputs[],
    *const conf_on_error[], *const conf_poison[], *const conf_at_end[],
    *const conf_log_level[], *const conf_access[];

struct conf_list {
	char	**item;			/* owned */
	size_t	  n;
};

#define CONF_C_str	char *
#define CONF_C_list	struct conf_list
#define CONF_C_num	int64_t
#define CONF_C_size	int64_t
#define CONF_C_ms	int64_t
#define CONF_C_choice	int
#define CONF_MEMBER(type, field, key, def, min, max, text)	\
	CONF_C_##type field;
struct conf_connector {
	char	*name;			/* title of its section, owned */
	CONF_CONNECTOR_TABLE(CONF_MEMBER)
};
struct conf_app {
	char	*name;			/* title of the section, owned */
	char	*file;			/* path of the configuration, owned */
	CONF_TABLE(CONF_MEMBER)
	struct conf_connector	*connectors;	/* not for workers; owned */
	size_t			 nconnectors;
};
#undef CONF_MEMBER

/*
 * Read and check a file; defaults are filled in, relative paths made
 * absolute against the file's directory.  Errors are ERR_CONFIG with
 * "file:line: text" and what is allowed: unknown or repeated settings, wrong
 * types, out of range, truncated file, no or several applications, missing
 * required settings, partitions not a power of two, a journal too small for
 * max-message.
 */
int	conf_read(struct conf_app *, const char *file, struct err *);
void	conf_fini(struct conf_app *);
/* Print the effective configuration as a file that conf_read accepts. */
void	conf_print(const struct conf_app *, FILE *);
/* The manual's list of settings as mdoc, of either kind of section. */
void	conf_manual(FILE *, bool connector);
/* For the worker, which never reads the file and knows no connectors. */
void	conf_pack(const struct conf_app *, struct buf *);
int	conf_unpack(struct conf_app *, struct slice, struct err *);

#endif
