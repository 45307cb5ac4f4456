/* /coracle.v1.ImageImport/Import, for clients that share our descriptors (coracle image import, the tests):
 *
 *     message ImageImportRequest { string path = 1; string name = 2; bool pinned = 3; }
 *     message ImageImportResponse { repeated string images = 1; }
 *
 * `path`: absolute path, on the shim's machine, of an OCI or docker archive or an OCI layout folder. `name`: a
 * reference for the image when the archive holds one. The answer names what was taken in. */
#pragma once

#include "pkg/api/api.h"

struct image_import_request {
    const char *path, *name;
    bool pinned;
};
struct image_import_response {
    struct str_vec images;
};
extern const struct api_type api_image_import_request, api_image_import_response;
extern const struct api_rpc api_rpc_image_import;
