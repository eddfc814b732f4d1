/* See kafka.h. */
#include <sys/eventfd.h>
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "worker/kafka.h"

#define LINES_A_SECOND	10
#define SECRET_MOST	(64 * 1024)	/* bytes; a key in PEM has few */
#define WHY		512

/* --- lines --------------------------------------------------------------- */

/* May this thread write one more line? */
static bool
may_log(struct kafka *k)
{
	uint64_t now = clock_mono_ns() / 1000000000 + 1, then;
	uint32_t n;

	then = atomic_load(&k->second);
	if (then != now && atomic_compare_exchange_strong(&k->second, &then,
	    now)) {
		atomic_store(&k->lines, 0);
		if ((n = atomic_exchange(&k->suppressed, 0)) > 0)
			log_warn("more lines of librdkafka %s suppressed=%u",
			    k->what, n);
	}
	if (atomic_fetch_add(&k->lines, 1) < LINES_A_SECOND)
		return (true);
	atomic_fetch_add(&k->suppressed, 1);
	return (false);
}

/* Called by any of its threads. */
static void
on_log(const rd_kafka_t *rk, int level, const char *facility,
    const char *text)
{
	struct kafka *k = rd_kafka_opaque(rk);

	if (k == NULL || !may_log(k))
		return;
	/* Its notices are of no interest to an operator. */
	log_at(level > LOG_WARNING ? LOG_DEBUG : level < LOG_ERR ? LOG_ERR :
	    level, "kafka: %s %s facility=%s", text, k->what, facility);
}

static void
on_error(rd_kafka_t *rk, int code, const char *reason, void *arg)
{
	struct kafka *k = arg;

	(void)rk;
	if (may_log(k))
		log_warn("kafka: %s %s error=%s", reason, k->what,
		    rd_kafka_err2name(code));
}

/* --- errors -------------------------------------------------------------- */

/* What to do about it, or "". */
static const char *
advice(rd_kafka_resp_err_t code)
{
	switch (code) {
	case RD_KAFKA_RESP_ERR__RESOLVE:
		return (": look at the brokers' names");
	case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
	case RD_KAFKA_RESP_ERR__TRANSPORT:
	case RD_KAFKA_RESP_ERR__TIMED_OUT:
		return (": see whether the brokers run and can be reached "
		    "from here, and whether security.protocol is right");
	case RD_KAFKA_RESP_ERR__SSL:
		return (": look at the ssl settings of the application");
	case RD_KAFKA_RESP_ERR__AUTHENTICATION:
	case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
		return (": look at the sasl settings of the application");
	case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
	case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
	case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
	case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
		return (": allow it by kafka-acls");
	case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
	case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		return (": create the topic by kafka-topics --create, or "
		    "correct its name");
	default:
		return ("");
	}
}

int
kafka_err(struct err *err, enum err_code code, const struct kafka *k,
    rd_kafka_resp_err_t why, const char *doing)
{
	return (err_set(err, code, "kafka: %s: %s%s %s error=%s", doing,
	    rd_kafka_err2str(why), advice(why), k->what,
	    rd_kafka_err2name(why)));
}

bool
kafka_is_permanent(rd_kafka_resp_err_t code)
{
	switch (code) {
	case RD_KAFKA_RESP_ERR__FATAL:
	case RD_KAFKA_RESP_ERR__INVALID_ARG:
	case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
	case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
	case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
	case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
	case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
	case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
	case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
	case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
	case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
	case RD_KAFKA_RESP_ERR__AUTHENTICATION:
	case RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION:
	case RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM:
		return (true);
	default:
		return (false);
	}
}

/* --- settings ------------------------------------------------------------ */

bool
kafka_is_secret(const char *name)
{
	static const char *const secret[] = { "sasl.password",
	    "ssl.key.password", "ssl.key.pem", "ssl.keystore.password",
	    "sasl.oauthbearer.client.secret", "sasl.oauthbearer.config" };
	size_t i;

	for (i = 0; i < sizeof(secret) / sizeof(secret[0]); i++)
		if (strcmp(name, secret[i]) == 0)
			return (true);
	return (false);
}

static const char *
find_pair(const char *const *pairs, const char *name)
{
	for (; pairs != NULL && pairs[0] != NULL; pairs += 2)
		if (strcmp(pairs[0], name) == 0)
			return (pairs[1]);
	return (NULL);
}

/* A file of one secret; a newline at its end is the editor's. */
static char *
read_secret(const char *name, const char *path, struct err *err)
{
	char *text = xcalloc(1, SECRET_MOST + 1);
	size_t len = 0;
	struct stat st;
	ssize_t n = -1;
	int fd;

	/* O_NONBLOCK: not to wait for the writer of a named pipe. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd != -1 && fstat(fd, &st) == 0 && !S_ISREG(st.st_mode))
		errno = EINVAL;
	else
		while (fd != -1 && len < SECRET_MOST && (n = read(fd,
		    text + len, SECRET_MOST - len)) > 0)
			len += (size_t)n;
	if (n == -1 || len == SECRET_MOST) {
		(void)(n != -1 ? err_set(err, ERR_CONFIG, "setting %s: %s is "
		    "too large", name, path) : err_sys(err, ERR_CONFIG,
		    "setting %s: cannot read %s", name, path));
		explicit_bzero(text, SECRET_MOST);
		free(text);
		text = NULL;
	}
	if (fd != -1)
		close(fd);
	while (text != NULL && len > 0 && (text[len - 1] == '\n' ||
	    text[len - 1] == '\r'))
		text[--len] = '\0';
	return (text);
}

/* Owned by the caller; NULL: *err is set. */
static char *
setting_value(const struct topo_setting *s, struct err *err)
{
	const char *value = s->text;

	if (s->from == SETTING_FILE)
		return (read_secret(s->name, s->text, err));
	if (s->from == SETTING_ENV && (value = getenv(s->text)) == NULL) {
		(void)err_set(err, ERR_CONFIG, "setting %s: the environment "
		    "of the supervisor has no variable %s", s->name, s->text);
		return (NULL);
	}
	return (xstrdup(value));
}

static int
set_one(rd_kafka_conf_t *conf, const char *name, const char *value,
    bool quiet, struct err *err)
{
	char why[WHY];

	switch (rd_kafka_conf_set(conf, name, value, why, sizeof(why))) {
	case RD_KAFKA_CONF_OK:
		return (0);
	case RD_KAFKA_CONF_UNKNOWN:
		return (err_set(err, ERR_CONFIG, "setting %s: librdkafka %s "
		    "knows no such setting", name, rd_kafka_version_str()));
	default:
		/* Its text has the value. */
		return (err_set(err, ERR_CONFIG, "setting %s: %s", name,
		    quiet ? "librdkafka does not accept its value" : why));
	}
}

static int
set_pairs(rd_kafka_conf_t *conf, const char *const *pairs, struct err *err)
{
	for (; pairs != NULL && pairs[0] != NULL; pairs += 2)
		if (set_one(conf, pairs[0], pairs[1], false, err) == -1)
			return (-1);
	return (0);
}

static int
set_theirs(rd_kafka_conf_t *conf, const struct topo_setting *s,
    const char *const *fixed, struct err *err)
{
	bool quiet = s->from != SETTING_VALUE;
	char *value;
	int r;

	if (strcmp(s->name, "bootstrap.servers") == 0 ||
	    strcmp(s->name, "metadata.broker.list") == 0)
		return (err_set(err, ERR_CONFIG, "setting %s: give the "
		    "brokers as such", s->name));
	if (find_pair(fixed, s->name) != NULL)
		return (err_set(err, ERR_CONFIG, "setting %s: what is "
		    "promised depends on it; leave it out", s->name));
	if (!quiet && kafka_is_secret(s->name))
		return (err_set(err, ERR_CONFIG, "setting %s: a secret must "
		    "come from a file or from the environment", s->name));
	if ((value = setting_value(s, err)) == NULL)
		return (-1);
	r = set_one(conf, s->name, value, quiet, err);
	explicit_bzero(value, strlen(value));
	free(value);
	return (r);
}

static int
set_all(rd_kafka_conf_t *conf, const struct kafka_how *how,
    const struct topo_kafka *t, struct err *err)
{
	size_t i;

	if (set_pairs(conf, how->defaults, err) == -1)
		return (-1);
	for (i = 0; i < t->nsettings; i++)
		if (set_theirs(conf, &t->settings[i], how->fixed, err) == -1)
			return (-1);
	if (set_pairs(conf, how->fixed, err) == -1)
		return (-1);
	return (set_one(conf, "bootstrap.servers", t->brokers, false, err));
}

/* --- the client ---------------------------------------------------------- */

static int
watch(struct kafka *k, struct err *err)
{
	static const uint64_t one = 1;

	if (rd_kafka_type(k->rk) == RD_KAFKA_CONSUMER) {
		(void)rd_kafka_poll_set_consumer(k->rk);
		k->queue = rd_kafka_queue_get_consumer(k->rk);
	} else
		k->queue = rd_kafka_queue_get_main(k->rk);
	if (k->queue == NULL)
		return (err_set(err, ERR_CONFIG, "a consumer needs group.id"));
	if ((k->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) == -1)
		return (err_sys(err, ERR_SYSTEM, "eventfd"));
	rd_kafka_queue_io_event_enable(k->queue, k->fd, &one, sizeof(one));
	return (0);
}

static int
make(struct kafka *k, const struct kafka_how *how, const struct topo_kafka *t,
    struct err *err)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char why[WHY];

	rd_kafka_conf_set_opaque(conf, k);
	rd_kafka_conf_set_log_cb(conf, on_log);
	rd_kafka_conf_set_error_cb(conf, on_error);
	if (how->dr_msg_cb != NULL)
		rd_kafka_conf_set_dr_msg_cb(conf, how->dr_msg_cb);
	if (how->offset_commit_cb != NULL)
		rd_kafka_conf_set_offset_commit_cb(conf,
		    how->offset_commit_cb);
	if (set_all(conf, how, t, err) == -1) {
		rd_kafka_conf_destroy(conf);
		return (-1);
	}
	k->rk = rd_kafka_new(how->type, conf, why, sizeof(why));
	if (k->rk == NULL) {
		rd_kafka_conf_destroy(conf);
		return (err_set(err, ERR_CONFIG, "%s", why));
	}
	return (watch(k, err));
}

int
kafka_open(struct kafka *k, const struct kafka_how *how,
    const struct topo_kafka *t, struct err *err)
{
	struct buf what = { 0 };

	memset(k, 0, sizeof(*k));
	k->fd = -1;
	k->arg = how->arg;
	buf_addf(&what, "%s=\"%s\"", how->what, how->name);
	k->what = buf_str(&what);
	if (make(k, how, t, err) == 0)
		return (0);
	(void)err_wrap(err, "%s \"%s\" in Kafka", how->what, how->name);
	kafka_close(k);
	return (-1);
}

void
kafka_close(struct kafka *k)
{
	if (k->queue != NULL)
		rd_kafka_queue_destroy(k->queue);
	if (k->rk != NULL)
		rd_kafka_destroy_flags(k->rk,
		    RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	if (k->fd != -1)
		close(k->fd);
	free(k->what);
	memset(k, 0, sizeof(*k));
	k->fd = -1;
}

void
kafka_woken(struct kafka *k)
{
	uint64_t n;

	while (read(k->fd, &n, sizeof(n)) == -1 && errno == EINTR)
		;
}
