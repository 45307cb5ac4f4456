/* Printers of rbac, storage, scheduling, node, certificates, resource, flowcontrol, admissionregistration,
 * apiregistration. */
#include "apiserver/tables.h"

/* A cell that is a member as it stands: strings, numbers, booleans; `dflt` when absent. */
static void cell_value(struct cells *c, const struct json *v, const char *dflt) {
    if (json_is(v, JSON_INT))
        cell_int(c, v->i);
    else if (json_is(v, JSON_BOOL))
        cell_bool(c, v->b);
    else
        cell_str(c, or_text(json_as_str(v), dflt));
}

/* ---- rbac ---- */

static const char *subjects_text(struct arena *a, const struct json *o, const char *kind) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    struct json *x;
    JSON_FOREACH(x, json_get(o, "subjects")) {
        if (!str_eq(json_get_str(x, "kind"), kind)) continue;
        if (b.len) buf_adds(&b, ", ");
        if (str_eq(kind, "ServiceAccount")) buf_printf(&b, "%s/", str_or_empty(json_get_str(x, "namespace")));
        buf_adds(&b, str_or_empty(json_get_str(x, "name")));
    }
    return arena_strdup(a, str_or_empty(b.data));
}

static void binding_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_fmt(c, "%s/%s", str_or_empty(S(o, "roleRef", "kind")), str_or_empty(S(o, "roleRef", "name")));
    cell_age(c, o);
    cell_str(c, subjects_text(c->a, o, "User"));
    cell_str(c, subjects_text(c->a, o, "Group"));
    cell_str(c, subjects_text(c->a, o, "ServiceAccount"));
}

/* ---- storage ---- */

static bool default_class(const struct json *o) {
    return str_eq(S(o, "metadata", "annotations", "storageclass.kubernetes.io/is-default-class"), "true") ||
           str_eq(S(o, "metadata", "annotations", "storageclass.beta.kubernetes.io/is-default-class"), "true");
}

static void storageclass_cells(struct cells *c, const struct json *o) {
    cell_fmt(c, "%s%s", str_or_empty(S(o, "metadata", "name")), default_class(o) ? " (default)" : "");
    cell_str(c, json_get_str(o, "provisioner"));
    cell_str(c, or_text(json_get_str(o, "reclaimPolicy"), "Delete"));
    cell_str(c, or_text(json_get_str(o, "volumeBindingMode"), "Immediate"));
    cell_bool(c, json_get_bool(o, "allowVolumeExpansion", false));
    cell_age(c, o);
}

static void csidriver_cells(struct cells *c, const struct json *o) {
    const struct json *s = json_get(o, "spec"), *tokens = json_get(s, "tokenRequests");
    cell_name(c, o);
    cell_bool(c, json_get_bool(s, "attachRequired", true));
    cell_bool(c, json_get_bool(s, "podInfoOnMount", false));
    cell_bool(c, json_get_bool(s, "storageCapacity", false));
    cell_str(c, json_is(tokens, JSON_ARRAY) ? join(c->a, tokens, "audience", ",") : "<unset>");
    cell_bool(c, json_get_bool(s, "requiresRepublish", false));
    cell_str(c, or_text(join(c->a, json_get(s, "volumeLifecycleModes"), NULL, ","), "<none>"));
    cell_age(c, o);
}

static void csinode_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_int(c, (int64_t)json_len(json_at(o, "spec", "drivers", NULL)));
    cell_age(c, o);
}

static void attachment_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_str(c, S(o, "spec", "attacher"));
    cell_str(c, S(o, "spec", "source", "persistentVolumeName"));
    cell_str(c, S(o, "spec", "nodeName"));
    cell_bool(c, json_get_bool(json_get(o, "status"), "attached", false));
    cell_age(c, o);
}

static void attributesclass_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_str(c, json_get_str(o, "driverName"));
    cell_age(c, o);
}

/* ---- scheduling, node, certificates ---- */

static void priorityclass_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_int(c, json_get_int(o, "value", 0));
    cell_bool(c, json_get_bool(o, "globalDefault", false));
    cell_age(c, o);
    cell_str(c, json_get_str(o, "preemptionPolicy"));
}

static void runtimeclass_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_str(c, json_get_str(o, "handler"));
    cell_age(c, o);
}

static void csr_cells(struct cells *c, const struct json *o) {
    const struct json *conds = json_at(o, "status", "conditions", NULL),
                      *seconds = json_at(o, "spec", "expirationSeconds", NULL);
    const char *state = find_condition(conds, "Denied")     ? "Denied"
                        : find_condition(conds, "Approved") ? "Approved"
                                                            : "Pending";
    cell_name(c, o);
    cell_age(c, o);
    cell_str(c, or_text(S(o, "spec", "signerName"), "<none>"));
    cell_str(c, S(o, "spec", "username"));
    cell_str(c, json_is(seconds, JSON_INT) ? human_duration(c->a, seconds->i) : "<none>");
    cell_fmt(c, "%s%s%s", state, find_condition(conds, "Failed") ? ",Failed" : "",
             str_empty(S(o, "status", "certificate")) ? "" : ",Issued");
}

/* ---- resource ---- */

static void age_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_age(c, o);
}

static void claim_cells(struct cells *c, const struct json *o) {
    bool deleted = S(o, "metadata", "deletionTimestamp") != NULL,
         allocated = json_at(o, "status", "allocation", NULL) != NULL;
    bool reserved = allocated && json_len(json_at(o, "status", "reservedFor", NULL));
    cell_name(c, o);
    if (deleted)
        cell_fmt(c, "deleted%s%s", allocated ? ",allocated" : "", reserved ? ",reserved" : "");
    else
        cell_fmt(c, "%s%s", allocated ? "allocated" : "pending", reserved ? ",reserved" : "");
    cell_age(c, o);
}

static void slice_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_str(c, S(o, "spec", "nodeName"));
    cell_str(c, S(o, "spec", "driver"));
    cell_str(c, S(o, "spec", "pool", "name"));
    cell_age(c, o);
}

/* ---- flowcontrol ---- */

static void flowschema_cells(struct cells *c, const struct json *o) {
    const struct json *dangling = find_condition(json_at(o, "status", "conditions", NULL), "Dangling");
    cell_name(c, o);
    cell_str(c, S(o, "spec", "priorityLevelConfiguration", "name"));
    cell_int(c, I(o, "spec", "matchingPrecedence"));
    cell_str(c, or_text(S(o, "spec", "distinguisherMethod", "type"), "<none>"));
    cell_age(c, o);
    cell_str(c, or_text(json_get_str(dangling, "status"), "?"));
}

static void prioritylevel_cells(struct cells *c, const struct json *o) {
    const struct json *limited = json_at(o, "spec", "limited", NULL),
                      *queuing = json_at(limited, "limitResponse", "queuing", NULL);
    cell_name(c, o);
    cell_str(c, S(o, "spec", "type"));
    cell_value(c, json_get(limited, "nominalConcurrencyShares"), "<none>");
    cell_value(c, json_get(queuing, "queues"), "<none>");
    cell_value(c, json_get(queuing, "handSize"), "<none>");
    cell_value(c, json_get(queuing, "queueLengthLimit"), "<none>");
    cell_age(c, o);
}

/* ---- admissionregistration, apiregistration ---- */

static void webhook_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_int(c, (int64_t)json_len(json_get(o, "webhooks")));
    cell_age(c, o);
}

static void policy(struct cells *c, const struct json *o, const char *list) {
    const struct json *k = json_at(o, "spec", "paramKind", NULL);
    cell_name(c, o);
    cell_int(c, (int64_t)json_len(json_at(o, "spec", list, NULL)));
    if (k)
        cell_fmt(c, "%s/%s", str_or_empty(json_get_str(k, "apiVersion")), str_or_empty(json_get_str(k, "kind")));
    else
        cell_str(c, "<unset>");
    cell_age(c, o);
}
static void validating_cells(struct cells *c, const struct json *o) { policy(c, o, "validations"); }
static void mutating_cells(struct cells *c, const struct json *o) { policy(c, o, "mutations"); }

static void policy_binding_cells(struct cells *c, const struct json *o) {
    const struct json *p = json_at(o, "spec", "paramRef", NULL);
    const char *name = json_get_str(p, "name");
    cell_name(c, o);
    cell_str(c, S(o, "spec", "policyName"));
    if (!str_empty(name))
        cell_fmt(c, "%s/%s", or_text(json_get_str(p, "namespace"), "*"), name);
    else
        cell_str(c, json_get(p, "selector") ? selector_text(c->a, json_get(p, "selector")) : "<unset>");
    cell_age(c, o);
}

static void apiservice_cells(struct cells *c, const struct json *o) {
    const struct json *svc = json_at(o, "spec", "service", NULL),
                      *cond = find_condition(json_at(o, "status", "conditions", NULL), "Available");
    const char *state = str_or_empty(json_get_str(cond, "status"));
    cell_name(c, o);
    if (json_is(svc, JSON_OBJECT))
        cell_fmt(c, "%s/%s", str_or_empty(json_get_str(svc, "namespace")), str_or_empty(json_get_str(svc, "name")));
    else
        cell_str(c, "Local");
    if (!cond)
        cell_str(c, "Unknown");
    else if (str_eq(state, "True"))
        cell_str(c, "True");
    else
        cell_fmt(c, "%s (%s)", state, str_or_empty(json_get_str(cond, "reason")));
    cell_age(c, o);
}

#define BINDING_COLUMNS "Name Role Age +Users +Groups +ServiceAccounts"

const struct table_printer printers_other[] = {
    {"rbac.authorization.k8s.io/v1/rolebindings", BINDING_COLUMNS, binding_cells},
    {"rbac.authorization.k8s.io/v1/clusterrolebindings", BINDING_COLUMNS, binding_cells},
    {"storage.k8s.io/v1/storageclasses", "Name Provisioner ReclaimPolicy VolumeBindingMode AllowVolumeExpansion Age",
     storageclass_cells},
    {"storage.k8s.io/v1/csidrivers",
     "Name AttachRequired:b PodInfoOnMount:b StorageCapacity:b TokenRequests RequiresRepublish:b Modes Age",
     csidriver_cells},
    {"storage.k8s.io/v1/csinodes", "Name Drivers:i Age", csinode_cells},
    {"storage.k8s.io/v1/volumeattachments", "Name Attacher* PV Node Attached:b Age", attachment_cells},
    {"storage.k8s.io/v1/volumeattributesclasses", "Name DriverName Age", attributesclass_cells},
    {"scheduling.k8s.io/v1/priorityclasses", "Name Value:i Global-Default:b Age PreemptionPolicy", priorityclass_cells},
    {"node.k8s.io/v1/runtimeclasses", "Name Handler Age", runtimeclass_cells},
    {"certificates.k8s.io/v1/certificatesigningrequests", "Name Age SignerName Requestor RequestedDuration Condition",
     csr_cells},
    {"resource.k8s.io/v1/deviceclasses", "Name Age", age_cells},
    {"resource.k8s.io/v1/resourceclaims", "Name State Age", claim_cells},
    {"resource.k8s.io/v1/resourceclaimtemplates", "Name Age", age_cells},
    {"resource.k8s.io/v1/resourceslices", "Name Node Driver Pool Age", slice_cells},
    {"flowcontrol.apiserver.k8s.io/v1/flowschemas",
     "Name PriorityLevel MatchingPrecedence DistinguisherMethod Age MissingPL", flowschema_cells},
    {"flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
     "Name Type NominalConcurrencyShares Queues HandSize QueueLengthLimit Age", prioritylevel_cells},
    {"admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", "Name Webhooks:i Age", webhook_cells},
    {"admissionregistration.k8s.io/v1/validatingwebhookconfigurations", "Name Webhooks:i Age", webhook_cells},
    {"admissionregistration.k8s.io/v1/validatingadmissionpolicies", "Name Validations:i ParamKind Age",
     validating_cells},
    {"admissionregistration.k8s.io/v1/mutatingadmissionpolicies", "Name Mutations:i ParamKind Age", mutating_cells},
    {"admissionregistration.k8s.io/v1/validatingadmissionpolicybindings", "Name PolicyName ParamRef Age",
     policy_binding_cells},
    {"admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings", "Name PolicyName ParamRef Age",
     policy_binding_cells},
    {"apiregistration.k8s.io/v1/apiservices", "Name Service Available Age", apiservice_cells},
    {0}};
