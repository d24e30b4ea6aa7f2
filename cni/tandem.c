/* tandem: the CNI plugin binary on the host. It holds no logic: it forwards each call (environment, configuration,
 * the opened network namespace) to Tandem's kubelet plugin over a unix socket and prints the reply.
 *
 * It is C because hosts have no Python and an exec must cost a millisecond. It decides by itself in one case only, the
 * kubelet plugin being away: then a pod without NIC claims must start and stop as if Tandem were not there, and a pod
 * with one must not. The kubelet plugin leaves a file per pod UID that has a prepared NIC claim, and a `.shared-<claim
 * UID>` file while a claim is prepared that pods unknown to it could join.
 *
 * Request (host byte order): "TND1", u32 length of environment, u32 length of stdin, environment (NUL-terminated
 * "CNI_…=…" strings), stdin; the network namespace rides as SCM_RIGHTS on the first byte. Reply: u32 exit code,
 * u32 length, that many bytes for stdout. No heap: everything is in static buffers.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

extern char **environ;

enum { ERR_ENV = 4, ERR_IO = 5, ERR_CONFIG = 7, ERR_TRY_LATER = 11 }; /* codes of the CNI specification */
enum { REPLY_TIMEOUT_SECONDS = 40 };                                  /* below the kubelet's 2 min for a sandbox */

struct span { const char *at; size_t len; };

static char conf[1 << 20], env[64 << 10], reply[1 << 20], out[4096];
static size_t conf_len, env_len, out_len;
static char cni_version[16] = "1.1.0";
static char socket_path[108] = "/run/tandem/cni.sock", records_path[256] = "/run/tandem/pods";

static void write_all(int fd, const char *data, size_t len) {
    while (len) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) _exit(1);
        data += n, len -= (size_t)n;
    }
}

static void put(const char *text) { /* appends to out as it is */
    size_t len = strlen(text);
    if (len > sizeof out - out_len) len = sizeof out - out_len;
    memcpy(out + out_len, text, len);
    out_len += len;
}

static void put_quoted(const char *text) { /* appends as the inside of a JSON string */
    char one[2] = "?";
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') put("\\");
        one[0] = (unsigned char)*text < 0x20 ? ' ' : *text;
        put(one);
    }
}

static _Noreturn void fail(int code, const char *message, const char *details) {
    char digits[3] = {(char)('0' + code / 10), (char)('0' + code % 10), 0};
    out_len = 0;
    put("{\"cniVersion\":\""), put(cni_version), put("\",\"code\":"), put(code < 10 ? digits + 1 : digits);
    put(",\"msg\":\"tandem: "), put_quoted(message), put("\",\"details\":\""), put_quoted(details), put("\"}\n");
    write_all(STDOUT_FILENO, out, out_len);
    _exit(1);
}

/* ---- JSON: only as much as finds the raw bytes of a value at the top level ---- */

static const char *skip_space(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
    return p;
}

static const char *skip_string(const char *p, const char *end) { /* p is at the opening quote; NULL if it never closes */
    for (p++; p < end; p++) {
        if (*p == '\\') p++;
        else if (*p == '"') return p + 1;
    }
    return NULL;
}

static const char *skip_value(const char *p, const char *end) {
    int depth = 0;
    do {
        p = skip_space(p, end);
        if (p >= end) return NULL;
        if (*p == '"') {
            if (!(p = skip_string(p, end))) return NULL;
        } else if (*p == '{' || *p == '[') {
            depth++, p++;
        } else if (*p == '}' || *p == ']') {
            if (--depth < 0) return NULL;
            p++;
        } else if (depth && (*p == ',' || *p == ':')) {
            p++;
        } else { /* number, true, false, null */
            const char *start = p;
            while (p < end && !strchr(" \t\r\n,:{}[]\"", *p)) p++;
            if (p == start) return NULL;
        }
    } while (depth);
    return p;
}

static struct span find(const char *key) { /* the value of a top-level key; at is NULL if there is none */
    const struct span none = {NULL, 0};
    const char *p = skip_space(conf, conf + conf_len), *end = conf + conf_len;
    size_t key_len = strlen(key);
    if (p >= end || *p++ != '{') return none;
    for (;;) {
        p = skip_space(p, end);
        if (p >= end || *p != '"') return none;
        const char *name = p + 1;
        if (!(p = skip_string(p, end))) return none;
        size_t name_len = (size_t)(p - 1 - name);
        p = skip_space(p, end);
        if (p >= end || *p != ':') return none;
        const char *value = skip_space(p + 1, end);
        if (!(p = skip_value(value, end))) return none;
        if (name_len == key_len && !memcmp(name, key, key_len)) return (struct span){value, (size_t)(p - value)};
        p = skip_space(p, end);
        if (p >= end || *p++ != ',') return none;
    }
}

static void read_setting(const char *key, char *into, size_t size) { /* a plain string; absent keeps the default */
    struct span v = find(key);
    if (!v.at) return;
    if (v.len < 2 || *v.at != '"' || v.len - 2 >= size || memchr(v.at, '\\', v.len))
        fail(ERR_CONFIG, "a setting in the network configuration is not a plain, short string", key);
    memcpy(into, v.at + 1, v.len - 2);
    into[v.len - 2] = 0;
}

/* ---- the call ---- */

static void read_stdin(void) {
    for (;;) {
        ssize_t n = read(STDIN_FILENO, conf + conf_len, sizeof conf - conf_len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail(ERR_IO, "cannot read the network configuration from stdin", strerror(errno));
        if (n == 0) return;
        conf_len += (size_t)n;
        if (conf_len == sizeof conf) fail(ERR_CONFIG, "the network configuration on stdin is 1 MiB or more", "");
    }
}

static void collect_environment(void) {
    for (char **e = environ; *e; e++) {
        size_t len = strlen(*e) + 1;
        if (strncmp(*e, "CNI_", 4)) continue;
        if (len > sizeof env - env_len) fail(ERR_ENV, "the CNI_ variables are longer than 64 KiB", "");
        memcpy(env + env_len, *e, len);
        env_len += len;
    }
}

static const char *variable(const char *name) { /* "" when unset */
    size_t len = strlen(name);
    for (char **e = environ; *e; e++)
        if (!strncmp(*e, name, len) && (*e)[len] == '=') return *e + len + 1;
    return "";
}

static int receive(int sock, char *into, size_t len) {
    while (len) {
        ssize_t n = recv(sock, into, len, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return 0;
        into += n, len -= (size_t)n;
    }
    return 1;
}

static int forward(void) { /* prints the reply and exits; returns only if there is no (whole) reply */
    struct timeval timeout = {.tv_sec = REPLY_TIMEOUT_SECONDS};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0) return errno;
    memcpy(address.sun_path, socket_path, sizeof socket_path);
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    if (connect(sock, (struct sockaddr *)&address, sizeof address)) return errno;

    uint32_t lengths[2] = {(uint32_t)env_len, (uint32_t)conf_len};
    struct iovec parts[] = {{"TND1", 4}, {lengths, sizeof lengths}, {env, env_len}, {conf, conf_len}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 4};
    union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(int))]; } control = {0};
    const char *path = variable("CNI_NETNS");
    int netns = *path ? open(path, O_RDONLY | O_CLOEXEC) : -1; /* a namespace that is gone is for the plugin to judge */
    if (netns >= 0) {
        message.msg_control = control.bytes, message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(sizeof netns);
        memcpy(CMSG_DATA(head), &netns, sizeof netns);
    }
    for (size_t left = 4 + sizeof lengths + env_len + conf_len; left;) {
        ssize_t n = sendmsg(sock, &message, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno;
        left -= (size_t)n;
        message.msg_control = NULL, message.msg_controllen = 0;
        for (size_t done = (size_t)n; done && message.msg_iovlen;) {
            struct iovec *part = message.msg_iov;
            size_t step = done < part->iov_len ? done : part->iov_len;
            part->iov_base = (char *)part->iov_base + step, part->iov_len -= step, done -= step;
            if (!part->iov_len) message.msg_iov++, message.msg_iovlen--;
        }
    }

    uint32_t head[2]; /* exit code, length */
    errno = ECONNRESET;
    if (!receive(sock, (char *)head, sizeof head)) return errno;
    if (head[1] > sizeof reply) fail(ERR_IO, "the reply of the Tandem kubelet plugin is over 1 MiB", "");
    if (!receive(sock, reply, head[1])) return errno;
    write_all(STDOUT_FILENO, reply, head[1]);
    _exit((int)(head[0] & 0xff));
}

/* ---- what the shim knows by itself ---- */

static void read_pod_uid(char *uid, size_t size) { /* K8S_POD_UID of CNI_ARGS, "" without; it becomes a file name */
    static const char key[] = "K8S_POD_UID=";
    for (const char *p = variable("CNI_ARGS"); *p;) {
        size_t len = strcspn(p, ";"), value = len - (sizeof key - 1);
        if (len >= sizeof key - 1 && !strncmp(p, key, sizeof key - 1)) {
            const char *text = p + sizeof key - 1;
            static const char safe[] = "-0123456789_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
            if (!value || value >= size || strspn(text, safe) < value)
                fail(ERR_ENV, "K8S_POD_UID in CNI_ARGS is not a UID", text);
            memcpy(uid, text, value);
            uid[value] = 0;
        }
        p += len + (p[len] == ';');
    }
}

static int pod_is_ours(const char *uid, int *shared) { /* 1: it has, or could have, a NIC claim; also when in doubt */
    static char entries[32 << 10];
    struct stat unused;
    *shared = 0;
    int folder = open(records_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return errno != ENOENT;
    if (*uid && (!fstatat(folder, uid, &unused, AT_SYMLINK_NOFOLLOW) || errno != ENOENT)) return 1;
    for (;;) {
        long n = syscall(SYS_getdents64, folder, entries, sizeof entries);
        if (n <= 0) return n < 0;
        for (long at = 0; at < n; at += ((struct dirent64 *)(entries + at))->d_reclen)
            if (!strncmp(((struct dirent64 *)(entries + at))->d_name, ".shared-", 8)) return *shared = 1;
    }
}

static _Noreturn void answer_alone(const char *command, int cause) {
    char uid[128] = "";
    int shared = 0, add = !strcmp(command, "ADD"), del = !strcmp(command, "DEL"), check = !strcmp(command, "CHECK");
    read_pod_uid(uid, sizeof uid);
    if (add || del || check) {
        int ours = pod_is_ours(uid, &shared);
        if (ours && (add || !shared)) { /* a marker alone stops no DEL or CHECK: an unknown pod was never attached */
            static char message[512];
            put("the Tandem kubelet plugin is away, and pod "), put_quoted(*uid ? uid : "(no UID)");
            put(shared ? " may share a prepared NIC claim" : " has a NIC claim"), put("; will be tried again");
            memcpy(message, out, out_len);
            fail(ERR_TRY_LATER, message, strerror(cause));
        }
        if (add) {
            struct span previous = find("prevResult");
            if (!previous.at) fail(ERR_CONFIG, "no prevResult: tandem must follow another plugin in the chain", "");
            write_all(STDOUT_FILENO, previous.at, previous.len);
        }
        _exit(0);
    }
    /* GC: the plugin sweeps when it is back. STATUS: a failing answer would make the node NotReady and stop pods
     * without claims, which the plugin's absence must not. */
    if (!strcmp(command, "GC") || !strcmp(command, "STATUS")) _exit(0);
    fail(ERR_ENV, "CNI_COMMAND is none of ADD, DEL, CHECK, GC, STATUS, VERSION", command);
}

int main(void) {
    const char *command = variable("CNI_COMMAND");
    if (!strcmp(command, "VERSION")) {
        put("{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n");
        write_all(STDOUT_FILENO, out, out_len);
        return 0;
    }
    if (!*command) fail(ERR_ENV, "CNI_COMMAND is not set: this is a CNI plugin, container runtimes call it", "");
    read_stdin();
    read_setting("cniVersion", cni_version, sizeof cni_version);
    read_setting("socket", socket_path, sizeof socket_path);
    read_setting("podRecords", records_path, sizeof records_path);
    collect_environment();
    answer_alone(command, forward());
}
