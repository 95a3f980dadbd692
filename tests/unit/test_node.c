/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/socket.h>

#include <cjson/cJSON.h>

#include "common/ipc/channel.h"
#include "monitor/export/export.h"
#include "monitor/graph/node.h"
#include "tests/unit/opener_children.h"

static char folder[] = "/tmp/bulkhead-node-XXXXXX";
static char image_path[64];

struct fixture {
    struct monitor monitor;
    struct graph *graph;
    struct error err;
    bool done;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    int fd;

    if (f == NULL || (f->monitor.base = event_base_new()) == NULL || start_opener(&f->monitor) < 0 ||
        export_set_new(&f->monitor, &f->monitor.exports, NULL) < 0 || graph_new(&f->monitor, &f->graph, NULL) < 0)
        return -1;
    f->monitor.graph = f->graph;
    fd = open(image_path, O_CREAT | O_TRUNC | O_RDWR, 0600);
    if (fd < 0 || ftruncate(fd, 1 << 20) < 0)
        return -1;
    close(fd);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    export_set_free(f->monitor.exports);
    graph_free(f->graph);
    opener_free(f->monitor.opener);
    event_base_free(f->monitor.base);
    free(f);
    return unlink(image_path);
}

/* ---- Operations, from beginning to end ---- */

static void done(void *opaque, const struct error *err)
{
    struct fixture *f = opaque;

    assert_false(f->done);
    f->done = true;
    f->err = err != NULL ? *err : (struct error){ 0 };
}

static int finish(struct fixture *f)
{
    let_opener_finish(&f->monitor);
    assert_true(f->done);
    f->done = false;
    return f->err.code;
}

static int add_node(struct fixture *f, const struct blockdev_options *options)
{
    graph_add(f->graph, options, done, f);
    return finish(f);
}

static int del(struct fixture *f, const char *name)
{
    graph_del(f->graph, name, done, f);
    return finish(f);
}

/* An export is made of the node; *ret_fd is what its worker gets. */
static int serve(struct fixture *f, const char *name, bool writable, int *ret_fd)
{
    struct graph_node *node = graph_find(f->graph, name);
    struct ipc_boot boot = { .role = IPC_ROLE_NBD_EXPORT, .io_threads = 1 };
    struct channel_message *message = calloc(1, sizeof(*message));
    int page_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int ends[2];
    int r = graph_node_check_use(node, writable, &f->err);

    assert_int_equal(channel_new(&ends[0], &ends[1], NULL), 0);
    graph_node_describe(node, writable, &boot);
    channel_fill_header(&boot.header, IPC_BOOT, sizeof(boot), 2);
    if (r == 0) {
        assert_int_equal(image_serve(graph_node_image(node), writable, &boot, ends[0], page_fd, done, f, NULL), 0);
        r = finish(f);
    }
    if (r == 0) {
        assert_int_equal(channel_receive(ends[1], message, &f->err), 1);
        assert_int_equal(message->fd_count, 2);
        *ret_fd = TAKE_FD(message->fds[1]);
        channel_message_done(message);
        graph_node_ref(node);
    }
    close(ends[0]);
    close(ends[1]);
    close(page_fd);
    free(message);
    return r;
}

static int use(struct fixture *f, const char *name, bool writable)
{
    int fd = -1;
    int r = serve(f, name, writable, &fd);

    close_fd(&fd);
    return r;
}

static void unuse(struct fixture *f, const char *name, bool writable)
{
    struct graph_node *node = graph_find(f->graph, name);

    image_unuse(graph_node_image(node), writable, done, f);
    assert_int_equal(finish(f), 0);
    graph_node_unref(node);
}

/* blockdev-add with JSON in which ' stands for " and @ for the image's path. */
static int add(struct fixture *f, const char *text)
{
    struct blockdev_options options;
    char json[1024];
    size_t len = 0;
    cJSON *tree;
    int r;

    for (; *text != '\0'; text++) {
        if (*text == '@')
            len += (size_t)snprintf(json + len, sizeof(json) - len, "%s", image_path);
        else
            json[len++] = *text == '\'' ? '"' : *text;
    }
    json[len] = '\0';
    tree = cJSON_Parse(json);
    assert_non_null(tree);
    memset(&f->err, 0, sizeof(f->err));
    r = schema_decode(&schema_blockdev_options, tree, SCHEMA_FORM_JSON, &options, &f->err);
    cJSON_Delete(tree);
    if (r < 0)
        return r;
    r = blockdev_options_check(&options, &f->err);
    if (r == 0)
        r = add_node(f, &options);
    schema_clear(&schema_blockdev_options, &options);
    return r;
}

static unsigned count(struct fixture *f)
{
    unsigned nodes = 0;

    for (struct graph_node *node = graph_first(f->graph); node != NULL; node = graph_next(node))
        nodes++;
    return nodes;
}

static uint64_t size_of(struct fixture *f, const char *name)
{
    assert_non_null(graph_find(f->graph, name));
    return graph_node_size(graph_find(f->graph, name));
}

static void test_the_table_of_drivers_is_whole(void **state)
{
    assert_int_equal(node_driver_count, BLOCKDEV_DRIVER_MAX);
    for (unsigned i = 0; i < node_driver_count; i++) {
        const struct node_driver *driver = &node_drivers[i];

        assert_ptr_equal(node_driver_find(driver->id), driver);
        assert_string_equal(driver->name, schema_enum_name(&schema_blockdev_driver, driver->id));
        assert_non_null(driver->open);
        assert_non_null(driver->size);
        assert_non_null(driver->describe);
    }
}

static void test_names_are_qemus(void **state)
{
    static const char *const bad[] = { "", "1a", "-a", ".a", "#a", "a b", "a/b", "\xc3\xbc",
                                       "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" /* 32 */ };
    static const char *const good[] = { "a", "Z9", "a-b._c", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" /* 31 */ };
    struct fixture *f = *state;
    char text[128];

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        snprintf(text, sizeof(text), "{'driver':'null-co','node-name':'%s'}", bad[i]);
        assert_int_equal(add(f, text), -EINVAL);
    }
    assert_int_equal(count(f), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
        snprintf(text, sizeof(text), "{'driver':'null-co','node-name':'%s'}", good[i]);
        assert_int_equal(add(f, text), 0);
    }
}

static void test_a_name_is_used_once(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(add(f, "{'driver':'null-co','node-name':'a'}"), 0);
    assert_int_equal(add(f, "{'driver':'null-co','node-name':'a'}"), -EEXIST);
    assert_non_null(strstr(f->err.text, "'a'"));
    assert_int_equal(add(f, "{'driver':'raw','node-name':'b','file':{'driver':'null-co','node-name':'b'}}"), -EEXIST);
    assert_int_equal(count(f), 1);
}

static void test_a_top_node_needs_a_name(void **state)
{
    assert_int_equal(add(*state, "{'driver':'null-co'}"), -EINVAL);
}

static void test_an_inline_child_goes_with_its_parent(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(add(f, "{'driver':'raw','node-name':'top','file':{'driver':'file','filename':'@'}}"), 0);
    assert_int_equal(count(f), 2);
    assert_non_null(graph_find(f->graph, "#block000"));
    assert_int_equal(del(f, "#block000"), -EPERM);
    assert_int_equal(del(f, "top"), 0);
    assert_int_equal(count(f), 0);
}

static void test_a_node_in_use_is_not_deleted(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(add(f, "{'driver':'file','node-name':'a','filename':'@'}"), 0);
    assert_int_equal(add(f, "{'driver':'raw','node-name':'r','file':'a'}"), 0);
    assert_int_equal(del(f, "a"), -EBUSY);
    assert_int_equal(use(f, "r", true), 0);
    assert_int_equal(del(f, "r"), -EBUSY);
    unuse(f, "r", true);
    assert_int_equal(del(f, "r"), 0);
    assert_int_equal(del(f, "a"), 0);
    assert_int_equal(del(f, "a"), -ENOENT);
}

static void test_a_failure_takes_back_what_was_made_on_the_way(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(
        add(f, "{'driver':'raw','node-name':'top','offset':2097152,'file':{'driver':'file','filename':'@'}}"), -EINVAL);
    assert_non_null(strstr(f->err.text, "'offset'"));
    assert_int_equal(count(f), 0);
}

static void test_trees_have_a_bounded_height(void **state)
{
    struct fixture *f = *state;
    char text[128];
    int r = add(f, "{'driver':'null-co','node-name':'n0'}");

    for (unsigned i = 1; i < IPC_NODES_MAX; i++) {
        assert_int_equal(r, 0);
        snprintf(text, sizeof(text), "{'driver':'raw','node-name':'n%u','file':'n%u'}", i, i - 1);
        r = add(f, text);
    }
    assert_int_equal(r, 0);
    assert_int_equal(add(f, "{'driver':'raw','node-name':'over','file':'n15'}"), -E2BIG);
    assert_int_equal(count(f), IPC_NODES_MAX);
}

static void test_sizes_are_rounded_up_to_sectors(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(truncate(image_path, 1000), 0);
    assert_int_equal(add(f, "{'driver':'file','node-name':'a','filename':'@'}"), 0);
    assert_int_equal(size_of(f, "a"), 1024);
    assert_int_equal(add(f, "{'driver':'raw','node-name':'r','file':'a','offset':100}"), 0);
    assert_int_equal(size_of(f, "r"), 512);
    assert_int_equal(add(f, "{'driver':'null-co','node-name':'n','size':1}"), 0);
    assert_int_equal(size_of(f, "n"), 512);
    assert_int_equal(add(f, "{'driver':'null-co','node-name':'d'}"), 0);
    assert_int_equal(size_of(f, "d"), 1 << 30);
}

static void test_a_raw_range_lies_within_its_file(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(add(f, "{'driver':'file','node-name':'a','filename':'@'}"), 0);
    assert_int_equal(add(f, "{'driver':'raw','node-name':'r','file':'a','offset':512,'size':1048576}"), -EINVAL);
    assert_int_equal(add(f, "{'driver':'raw','node-name':'r','file':'a','size':1000}"), -EINVAL);
    assert_int_equal(add(f, "{'driver':'raw','node-name':'r','file':'a','offset':1048577}"), -EINVAL);
    assert_int_equal(add(f, "{'driver':'raw','node-name':'r','file':'a','offset':4611686018427387904}"), -EINVAL);
    assert_int_equal(add(f, "{'driver':'raw','node-name':'r','file':'a','offset':512,'size':1048064}"), 0);
    assert_int_equal(size_of(f, "r"), 1048064);
}

static void test_what_is_no_regular_file_is_refused_unopened(void **state)
{
    static const char *const kinds[] = { "a directory", "a FIFO", "a socket", "a character device" };
    struct fixture *f = *state;
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    char fifo[64];
    const char *const paths[] = { folder, fifo, addr.sun_path, "/dev/null" };
    char text[160];
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(fifo, sizeof(fifo), "%s/fifo", folder);
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/sock", folder);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(bind(sock, (struct sockaddr *)&addr, sizeof(addr)), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        snprintf(text, sizeof(text), "{'driver':'file','node-name':'a','filename':'%s'}", paths[i]);
        assert_int_equal(add(f, text), -EINVAL);
        assert_non_null(strstr(f->err.text, kinds[i]));
    }
    close(sock);
    unlink(fifo);
    unlink(addr.sun_path);
}

static void test_a_regular_file_is_no_host_device(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(add(f, "{'driver':'host_device','node-name':'a','filename':'@'}"), -EINVAL);
    assert_int_equal(add(f, "{'driver':'host_device','node-name':'a','filename':'/dev/zero','read-only':true}"), 0);
}

static void test_a_read_only_node_below_makes_the_tree_read_only(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(add(f, "{'driver':'file','node-name':'a','filename':'@','read-only':true}"), 0);
    assert_int_equal(add(f, "{'driver':'raw','node-name':'r','file':'a'}"), 0);
    assert_true(graph_node_read_only(graph_find(f->graph, "r")));
    assert_int_equal(use(f, "r", true), -EPERM);
    assert_non_null(strstr(f->err.text, "Cannot export read-only node as writable: node 'a'"));
    assert_int_equal(graph_find(f->graph, "r")->refs, 1);
}

static void test_a_node_made_on_the_way_takes_flags_from_above(void **state)
{
    struct fixture *f = *state;
    struct node_flags *flags;

    assert_int_equal(add(f, "{'driver':'raw','node-name':'top','read-only':true,'cache':{'no-flush':true},"
                            "'file':{'driver':'file','node-name':'in','filename':'@'}}"), 0);
    flags = &graph_find(f->graph, "in")->flags;
    assert_true(flags->read_only);
    assert_true(flags->no_flush);
    assert_false(flags->direct);
    assert_true(flags->discard_unmap);
    assert_false(graph_find(f->graph, "top")->flags.discard_unmap);
    assert_int_equal(del(f, "top"), 0);

    assert_int_equal(add(f, "{'driver':'raw','node-name':'top','read-only':true,'discard':'unmap','file':{'driver':"
                            "'file','node-name':'in','filename':'@','read-only':false,'discard':'ignore'}}"), 0);
    flags = &graph_find(f->graph, "in")->flags;
    assert_false(flags->read_only);
    assert_false(flags->discard_unmap);
}

static void test_locks_are_held_while_exports_use_the_node(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(add(f, "{'driver':'file','node-name':'a','filename':'@'}"), 0);
    assert_int_equal(add(f, "{'driver':'file','node-name':'b','filename':'@'}"), 0);
    assert_int_equal(use(f, "a", true), 0);
    assert_int_equal(use(f, "a", true), 0); /* exports of one node know of each other */
    assert_int_equal(use(f, "b", true), -EAGAIN);
    assert_non_null(strstr(f->err.text, image_path));
    unuse(f, "a", true);
    assert_int_equal(use(f, "b", true), -EAGAIN);
    unuse(f, "a", true);
    assert_int_equal(use(f, "b", true), 0);
    unuse(f, "b", true);
}

/* Locks that workers hold are as good as those of another program, and may not be taken for them. */
static void test_locks_of_our_workers_are_not_in_our_way(void **state)
{
    struct fixture *f = *state;
    struct graph_node *a;
    int fds[3];

    assert_int_equal(add(f, "{'driver':'file','node-name':'a','filename':'@'}"), 0);
    assert_int_equal(add(f, "{'driver':'file','node-name':'b','filename':'@'}"), 0);
    a = graph_find(f->graph, "a");
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(serve(f, "a", i > 0, &fds[i]), 0);
        graph_node_resize(a, (2u + i) << 20, done, f);
        assert_int_equal(finish(f), 0);
        assert_int_equal(image_begin_resize(a->image, done, f, NULL), 0);
        assert_int_equal(finish(f), 0);
        image_end_resize(a->image);
    }
    /* All uses end; a worker's description is still there. */
    for (unsigned i = 0; i < 3; i++)
        unuse(f, "a", i > 0);
    assert_int_equal(use(f, "b", true), -EAGAIN);
    close(fds[1]);
    assert_int_equal(use(f, "b", true), -EAGAIN);
    close(fds[2]);
    assert_int_equal(use(f, "b", true), 0); /* one that only read is in nobody's way */
    unuse(f, "b", true);
    close(fds[0]);
}

static void test_boot_describes_children_before_parents(void **state)
{
    struct fixture *f = *state;
    struct ipc_boot *boot = calloc(1, sizeof(*boot));
    int fd = -1;

    assert_int_equal(add(f, "{'driver':'file','node-name':'a','filename':'@','aio':'threads'}"), 0);
    assert_int_equal(add(f, "{'driver':'raw','node-name':'r','file':'a','offset':512,'size':1024,'discard':'unmap'}"), 0);
    graph_node_describe(graph_find(f->graph, "r"), false, boot);
    assert_int_equal(boot->node_count, 2);
    assert_int_equal(boot->image_fd_count, 1);
    assert_int_equal(boot->engine, IPC_ENGINE_THREADS);
    assert_int_equal(boot->nodes[0].driver, IPC_DRIVER_FILE);
    assert_int_equal(boot->nodes[0].fd_index, 0);
    assert_int_equal(boot->nodes[0].child_index, -1);
    assert_int_equal(boot->nodes[1].driver, IPC_DRIVER_RAW);
    assert_int_equal(boot->nodes[1].child_index, 0);
    assert_int_equal(boot->nodes[1].offset_bytes, 512);
    assert_int_equal(boot->nodes[1].size_bytes, 1024);
    assert_int_equal(boot->nodes[1].flags, IPC_NODE_READ_ONLY | IPC_NODE_DISCARD_UNMAP | IPC_NODE_HAS_SIZE);
    assert_string_equal(boot->nodes[1].name, "r");
    /* The node is writable, the export is not. */
    assert_int_equal(serve(f, "r", false, &fd), 0);
    assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    close(fd);
    unuse(f, "r", false);
    assert_int_equal(serve(f, "r", true, &fd), 0);
    assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
    close(fd);
    unuse(f, "r", true);
    free(boot);
}

static void test_the_time_of_access_of_our_images_is_left_alone(void **state)
{
    struct fixture *f = *state;
    struct ipc_boot *boot = calloc(1, sizeof(*boot));
    int fd = -1;

    assert_int_equal(add(f, "{'driver':'file','node-name':'a','filename':'@'}"), 0);
    for (unsigned writable = 0; writable < 2; writable++) {
        assert_int_equal(serve(f, "a", writable, &fd), 0);
        assert_int_equal(fcntl(fd, F_GETFL) & O_NOATIME, O_NOATIME);
        close(fd);
        unuse(f, "a", writable);
    }
    free(boot);
}

/* Only an owner may ask for that; others get the same descriptor without. */
static void test_an_image_of_somebody_else_is_opened_all_the_same(void **state)
{
    struct fixture *f = *state;
    struct ipc_boot *boot = calloc(1, sizeof(*boot));
    int fd = -1;

    assert_int_equal(chmod(image_path, 0666), 0);
    assert_int_equal(chmod(folder, 0711), 0);
    if (seteuid(65534) < 0) {
        free(boot);
        SKIP("only root can become somebody else");
    }
    assert_int_equal(add(f, "{'driver':'file','node-name':'a','filename':'@'}"), 0);
    assert_int_equal(serve(f, "a", true, &fd), 0);
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NOATIME), O_RDWR);
    close(fd);
    unuse(f, "a", true);
    free(boot);
}

static void test_blkdebug_rules_become_masks(void **state)
{
    struct fixture *f = *state;
    struct ipc_boot *boot = calloc(1, sizeof(*boot));

    assert_int_equal(add(f, "{'driver':'blkdebug','node-name':'d','image':{'driver':'null-co'},'inject-error':["
                            "{'event':'none','iotype':'write','errno':28,'once':true},{'event':'none','sector':7}]}"), 0);
    graph_node_describe(graph_find(f->graph, "d"), true, boot);
    assert_int_equal(boot->nodes[1].rule_count, 2);
    assert_int_equal(boot->nodes[1].rules[0].op_mask, 1 << 1);
    assert_int_equal(boot->nodes[1].rules[0].errno_code, 28);
    assert_int_equal(boot->nodes[1].rules[0].once, 1);
    assert_int_equal(boot->nodes[1].rules[0].sector, -1);
    assert_int_equal(boot->nodes[1].rules[1].op_mask, 0x1f);
    assert_int_equal(boot->nodes[1].rules[1].errno_code, EIO);
    assert_int_equal(boot->nodes[1].rules[1].sector, 7);
    free(boot);
}

int main(void)
{
#define NODE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_table_of_drivers_is_whole),
        NODE_TEST(test_names_are_qemus),
        NODE_TEST(test_a_name_is_used_once),
        NODE_TEST(test_a_top_node_needs_a_name),
        NODE_TEST(test_an_inline_child_goes_with_its_parent),
        NODE_TEST(test_a_node_in_use_is_not_deleted),
        NODE_TEST(test_a_failure_takes_back_what_was_made_on_the_way),
        NODE_TEST(test_trees_have_a_bounded_height),
        NODE_TEST(test_sizes_are_rounded_up_to_sectors),
        NODE_TEST(test_a_raw_range_lies_within_its_file),
        NODE_TEST(test_what_is_no_regular_file_is_refused_unopened),
        NODE_TEST(test_a_regular_file_is_no_host_device),
        NODE_TEST(test_a_read_only_node_below_makes_the_tree_read_only),
        NODE_TEST(test_a_node_made_on_the_way_takes_flags_from_above),
        NODE_TEST(test_locks_are_held_while_exports_use_the_node),
        NODE_TEST(test_locks_of_our_workers_are_not_in_our_way),
        NODE_TEST(test_boot_describes_children_before_parents),
        NODE_TEST(test_the_time_of_access_of_our_images_is_left_alone),
        NODE_TEST(test_an_image_of_somebody_else_is_opened_all_the_same),
        NODE_TEST(test_blkdebug_rules_become_masks),
    };
    int failed;

    if (mkdtemp(folder) == NULL)
        return 1;
    snprintf(image_path, sizeof(image_path), "%s/image", folder);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
