/* Links of pages behind .../proxy/. */
#include "apiserver/rewrite.h"
#include "tests/test.h"

static const struct rewrite w = {"/api/v1/namespaces/n/pods/p/proxy", "10.0.0.5:80", "server:6443", "https"};

#define P "/api/v1/namespaces/n/pods/p/proxy"

static void page_is(const char *in, const char *want) {
    _cleanup_buf_ struct buf out = BUF_INIT;
    rewrite_html(&w, in, strlen(in), &out);
    buf_addc(&out, '\0');
    CHECK_STR(out.data, want);
}

TEST(links_from_the_root_go_below_the_proxy) {
    page_is("<a href=\"/x\">test</a>", "<a href=\"" P "/x\">test</a>");
    page_is("<A\n HREF = '/x?y#z' id=/x>", "<A\n HREF = '" P "/x?y#z' id=/x>");
    page_is("<img alt=\"/a\" src=/b.png><form action=/c/>", "<img alt=\"/a\" src=" P "/b.png><form action=" P "/c/>");
    page_is("<script src=\"/s.js\">var a = '<a href=\"/x\">';</script><link href=\"/l\">",
            "<script src=\"" P "/s.js\">var a = '<a href=\"/x\">';</script><link href=\"" P "/l\">");
}

TEST(other_links_stay) {
    page_is("<a href=\"x\"><a href=\"../y\"><a href=\"https://example.com/z\"><a href=\"//example.com/z\">",
            "<a href=\"x\"><a href=\"../y\"><a href=\"https://example.com/z\"><a href=\"//example.com/z\">");
    page_is("<a href=\"" P "/x\">", "<a href=\"" P "/x\">");
    page_is("<!-- <a href=\"/x\"> --> 1 < 2 <p href=\"/x\">", "<!-- <a href=\"/x\"> --> 1 < 2 <p href=\"/x\">");
}

TEST(links_that_name_the_target_name_this_server) {
    page_is("<a href=\"http://10.0.0.5:80/x\">", "<a href=\"https://server:6443" P "/x\">");
    page_is("<a href=\"http://10.0.0.55:80/x\">", "<a href=\"http://10.0.0.55:80/x\">");
}

TEST(pages_that_break_off_stay_whole) {
    static const char page[] = "<a href=\"/x\"><img src='";
    for (size_t n = 0; n < sizeof(page); n++) {
        _cleanup_buf_ struct buf out = BUF_INIT;
        rewrite_html(&w, page, n, &out);
        CHECK(out.len >= n);
    }
}
