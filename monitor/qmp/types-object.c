/* SPDX-License-Identifier: BSD-2-Clause */
/* Tables of the objects: types of QEMU's qapi/qom.json, crypto.json and authz.json, and the check of their options. */
#include "monitor/qmp/elsewhere.h"
#include "monitor/qmp/types.h"

#include <errno.h>
#include <string.h>

#include "common/ipc/ipc-protocol.h"

static const struct schema_value object_type_values[] = {
    [OBJECT_TYPE_AUTHZ_LIST] = { "authz-list", "Says by a list of rules who is let in." },
    [OBJECT_TYPE_AUTHZ_LIST_FILE] = { "authz-list-file", "Says by a list of rules in a file who is let in." },
    [OBJECT_TYPE_AUTHZ_SIMPLE] = { "authz-simple", "Lets in one identity." },
    [OBJECT_TYPE_SECRET] = { "secret", "A password or key for other objects." },
    [OBJECT_TYPE_TLS_CREDS_ANON] = { "tls-creds-anon", "TLS without knowing who the other side is." },
    [OBJECT_TYPE_TLS_CREDS_PSK] = { "tls-creds-psk", "TLS with keys that both sides share." },
    [OBJECT_TYPE_TLS_CREDS_X509] = { "tls-creds-x509", "TLS with certificates." },
};
const struct schema_type schema_object_type =
    SCHEMA_TYPE_ENUM_OF_MORE("ObjectType", object_type_values, elsewhere_object_types, "Kinds of objects.");

/* ---- Authorization ---- */

static const struct schema_value authz_policy_values[] = {
    [AUTHZ_POLICY_DENY] = { "deny", "Not let in." },
    [AUTHZ_POLICY_ALLOW] = { "allow", "Let in." },
};
static const struct schema_type schema_authz_policy =
    SCHEMA_TYPE_ENUM("QAuthZListPolicy", authz_policy_values, "What a rule or a list says.");

static const struct schema_value authz_format_values[] = {
    [AUTHZ_FORMAT_EXACT] = { "exact", "The identity is this text." },
    [AUTHZ_FORMAT_GLOB] = { "glob",
                            "The identity fits this pattern, with '*' for any text and '?' for one character." },
};
static const struct schema_type schema_authz_format =
    SCHEMA_TYPE_ENUM("QAuthZListFormat", authz_format_values, "How a rule is compared with an identity.");

static const struct schema_member authz_rule_members[] = {
    SCHEMA_MEMBER(struct authz_rule, match, "match", schema_str,
                  "The identity or pattern: a certificate's distinguished name, or a PSK user name."),
    SCHEMA_MEMBER(struct authz_rule, policy, "policy", schema_authz_policy, "What holds for it."),
    SCHEMA_MEMBER_DEF(struct authz_rule, format, "format", schema_authz_format, "exact", "How it is compared."),
};
static const struct schema_type schema_authz_rule =
    SCHEMA_TYPE_STRUCT(struct authz_rule, "QAuthZListRule", authz_rule_members, "A rule of an authorization list.");
static const struct schema_type schema_authz_rule_list = SCHEMA_TYPE_ARRAY("[QAuthZListRule]", schema_authz_rule);

static const struct schema_member authz_list_members[] = {
    SCHEMA_MEMBER_DEF(struct authz_list, policy, "policy", schema_authz_policy, "deny", "What holds if no rule fits."),
    SCHEMA_MEMBER_OPT(struct authz_list, rules, "rules", schema_authz_rule_list, "The first that fits decides."),
};
const struct schema_type schema_authz_list =
    SCHEMA_TYPE_STRUCT(struct authz_list, "AuthZListProperties", authz_list_members, "Options of authz-list.");

static const struct schema_member authz_list_file_members[] = {
    SCHEMA_MEMBER(struct authz_list_file, filename, "filename", schema_str,
                  "A file with the options of an authz-list as JSON."),
    SCHEMA_MEMBER_DEF(struct authz_list_file, refresh, "refresh", schema_bool, "on",
                      "Whether to read the file again when it has changed."),
};
static const struct schema_type schema_authz_list_file = SCHEMA_TYPE_STRUCT(
    struct authz_list_file, "AuthZListFileProperties", authz_list_file_members, "Options of authz-list-file.");

static const struct schema_member authz_simple_members[] = {
    SCHEMA_MEMBER(struct authz_simple, identity, "identity", schema_str, "Who is let in, compared exactly."),
};
static const struct schema_type schema_authz_simple =
    SCHEMA_TYPE_STRUCT(struct authz_simple, "AuthZSimpleProperties", authz_simple_members, "Options of authz-simple.");

/* ---- Secrets ---- */

static const struct schema_value secret_format_values[] = {
    [SECRET_FORMAT_RAW] = { "raw", "As it is." },
    [SECRET_FORMAT_BASE64] = { "base64", "In base64, for bytes that are no text." },
};
static const struct schema_type schema_secret_format =
    SCHEMA_TYPE_ENUM("QCryptoSecretFormat", secret_format_values, "How a secret is written.");

#define LOADED_DOC "Accepted for QEMU's sake; must be on."

static const struct schema_member secret_members[] = {
    SCHEMA_MEMBER_HAS(struct secret_options, loaded, "loaded", schema_bool, LOADED_DOC),
    SCHEMA_MEMBER_DEF(struct secret_options, format, "format", schema_secret_format, "raw", "How it is written."),
    SCHEMA_MEMBER_OPT(struct secret_options, keyid, "keyid", schema_str, "Not supported: secrets are not encrypted."),
    SCHEMA_MEMBER_OPT(struct secret_options, iv, "iv", schema_str, "Not supported: secrets are not encrypted."),
    SCHEMA_MEMBER_OPT(struct secret_options, data, "data", schema_str,
                      "The secret itself; on a command line others can see it."),
    SCHEMA_MEMBER_OPT(struct secret_options, file, "file", schema_str, "A file with the secret."),
};
static const struct schema_type schema_secret =
    SCHEMA_TYPE_STRUCT(struct secret_options, "SecretProperties", secret_members, "Options of secret.");

/* ---- Credentials for TLS ---- */

static const struct schema_value tls_creds_endpoint_values[] = {
    [TLS_CREDS_ENDPOINT_CLIENT] = { "client", "For a TLS client; there is none, so this is refused." },
    [TLS_CREDS_ENDPOINT_SERVER] = { "server", "For a TLS server." },
};
static const struct schema_type schema_tls_creds_endpoint =
    SCHEMA_TYPE_ENUM("QCryptoTLSCredsEndpoint", tls_creds_endpoint_values, "A side of a TLS connection.");

#define TLS_CREDS_MEMBERS                                                                                              \
    SCHEMA_MEMBER_DEF(struct tls_creds_options, verify_peer, "verify-peer", schema_bool, "on",                         \
                      "Whether a client must show a certificate that the CA signed."),                                 \
        SCHEMA_MEMBER_OPT(struct tls_creds_options, dir, "dir", schema_str, "The folder with the files."),             \
        SCHEMA_MEMBER_DEF(struct tls_creds_options, endpoint, "endpoint", schema_tls_creds_endpoint, "client",         \
                          "Which side they are for; must be server."),                                                 \
        SCHEMA_MEMBER_OPT(struct tls_creds_options, priority, "priority", schema_str,                                  \
                          "A GnuTLS priority string in place of NORMAL."),                                             \
        SCHEMA_MEMBER_HAS(struct tls_creds_options, loaded, "loaded", schema_bool, LOADED_DOC)

static const struct schema_member tls_creds_anon_members[] = { TLS_CREDS_MEMBERS };
static const struct schema_type schema_tls_creds_anon = SCHEMA_TYPE_STRUCT(
    struct tls_creds_options, "TlsCredsAnonProperties", tls_creds_anon_members, "Options of tls-creds-anon.");

static const struct schema_member tls_creds_psk_members[] = {
    TLS_CREDS_MEMBERS,
    SCHEMA_MEMBER_OPT(struct tls_creds_options, username, "username", schema_str,
                      "The name that a client sends; must be left out, this is a server."),
};
static const struct schema_type schema_tls_creds_psk = SCHEMA_TYPE_STRUCT(
    struct tls_creds_options, "TlsCredsPskProperties", tls_creds_psk_members, "Options of tls-creds-psk.");

static const struct schema_member tls_creds_x509_members[] = {
    TLS_CREDS_MEMBERS,
    SCHEMA_MEMBER_DEF(struct tls_creds_options, sanity_check, "sanity-check", schema_bool, "on",
                      "Whether to check the certificates before they are used."),
    SCHEMA_MEMBER_OPT(struct tls_creds_options, passwordid, "passwordid", schema_str,
                      "Id of a secret with the password of the private key."),
};
static const struct schema_type schema_tls_creds_x509 = SCHEMA_TYPE_STRUCT(
    struct tls_creds_options, "TlsCredsX509Properties", tls_creds_x509_members, "Options of tls-creds-x509.");

/* ---- All of them ---- */

static const struct schema_member object_options_members[] = {
    SCHEMA_MEMBER(struct object_options, type, "qom-type", schema_object_type, "The kind of object."),
    SCHEMA_MEMBER(struct object_options, id, "id", schema_str, "The object's name."),
};
static const struct schema_variant object_options_variants[] = {
    [OBJECT_TYPE_AUTHZ_LIST] = { &schema_authz_list, offsetof(struct object_options, authz_list) },
    [OBJECT_TYPE_AUTHZ_LIST_FILE] = { &schema_authz_list_file, offsetof(struct object_options, authz_list_file) },
    [OBJECT_TYPE_AUTHZ_SIMPLE] = { &schema_authz_simple, offsetof(struct object_options, authz_simple) },
    [OBJECT_TYPE_SECRET] = { &schema_secret, offsetof(struct object_options, secret) },
    [OBJECT_TYPE_TLS_CREDS_ANON] = { &schema_tls_creds_anon, offsetof(struct object_options, tls_creds) },
    [OBJECT_TYPE_TLS_CREDS_PSK] = { &schema_tls_creds_psk, offsetof(struct object_options, tls_creds) },
    [OBJECT_TYPE_TLS_CREDS_X509] = { &schema_tls_creds_x509, offsetof(struct object_options, tls_creds) },
};
const struct schema_type schema_object_options =
    SCHEMA_TYPE_UNION(struct object_options, "ObjectOptions", type, object_options_members, object_options_variants,
                      "What --object and object-add take; on the command line 'qom-type=' may be left out.");

static const struct schema_member object_del_members[] = {
    SCHEMA_MEMBER(struct object_del_args, id, "id", schema_str, "The object's name."),
};
const struct schema_type schema_object_del_args =
    SCHEMA_TYPE_STRUCT(struct object_del_args, "object-del-arg", object_del_members, "Arguments of object-del.");

static const struct schema_member qom_list_members[] = {
    SCHEMA_MEMBER(struct qom_list_args, path, "path", schema_str, "/, /objects, or /objects/ID."),
};
const struct schema_type schema_qom_list_args =
    SCHEMA_TYPE_STRUCT(struct qom_list_args, "qom-list-arg", qom_list_members, "Arguments of qom-list.");

static const struct schema_member object_property_info_members[] = {
    SCHEMA_MEMBER(struct object_property_info, name, "name", schema_str, "The property's name."),
    SCHEMA_MEMBER(struct object_property_info, type, "type", schema_str,
                  "Its type; child<TYPE> for an object of that type."),
};
static const struct schema_type schema_object_property_info = SCHEMA_TYPE_STRUCT(
    struct object_property_info, "ObjectPropertyInfo", object_property_info_members, "A property of an object.");
const struct schema_type schema_object_property_info_list =
    SCHEMA_TYPE_ARRAY("[ObjectPropertyInfo]", schema_object_property_info);

/* ---- What the types cannot say ---- */

static int check_loaded(bool has_loaded, bool loaded, struct error *err)
{
    if (has_loaded && !loaded)
        return error_set(err, -EINVAL, "member 'loaded' must be true or left out: an object is loaded when it is made");
    return 0;
}

static int check_secret(const struct object_options *options, struct error *err)
{
    const struct secret_options *secret = &options->secret;

    if (secret->keyid != NULL || secret->iv != NULL)
        return error_set(err, -EINVAL,
                         "member '%s' is not supported: encrypted secrets are not, use 'file' with a file "
                         "that only the service account can read",
                         secret->keyid != NULL ? "keyid" : "iv");
    if (secret->data != NULL && secret->file != NULL)
        return error_set(err, -EINVAL, "'file' and 'data' are mutually exclusive");
    if (secret->data == NULL && secret->file == NULL)
        return error_set(err, -EINVAL, "Either 'file' or 'data' must be provided");
    return check_loaded(secret->has_loaded, secret->loaded, err);
}

static int check_tls_creds(const struct object_options *options, struct error *err)
{
    const struct tls_creds_options *creds = &options->tls_creds;

    if (creds->endpoint != TLS_CREDS_ENDPOINT_SERVER)
        return error_set(err, -EINVAL,
                         "Expected TLS credentials for a server endpoint: member 'endpoint' must be server (its "
                         "default is client): nothing here is a TLS "
                         "client");
    if (creds->dir == NULL && options->type != OBJECT_TYPE_TLS_CREDS_ANON)
        return error_set(err, -EINVAL, "Parameter 'dir' is missing");
    if (creds->username != NULL)
        return error_set(err, -EINVAL,
                         "member 'username' is a client's: leave it out, the users are in dir's keys.psk");
    return check_loaded(creds->has_loaded, creds->loaded, err);
}

int object_options_check(const struct object_options *options, struct error *err)
{
    static int (*const by_type[OBJECT_TYPE_MAX])(const struct object_options *, struct error *) = {
        [OBJECT_TYPE_SECRET] = check_secret,
        [OBJECT_TYPE_TLS_CREDS_ANON] = check_tls_creds,
        [OBJECT_TYPE_TLS_CREDS_PSK] = check_tls_creds,
        [OBJECT_TYPE_TLS_CREDS_X509] = check_tls_creds,
    };

    if (!qmp_id_wellformed(options->id, IPC_EXPORT_ID_MAX - 1))
        return error_set(err, -EINVAL,
                         "Parameter 'id' expects an identifier: a letter and then letters, digits, '-', '.' or '_', at "
                         "most %d in all",
                         IPC_EXPORT_ID_MAX - 1);
    return by_type[options->type] != NULL ? by_type[options->type](options, err) : 0;
}
